package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"
)

// What is to die without a word has to be a process of its own: this program,
// started once more, with the role in the environment. A child says one line
// when it is ready, and lives until its standard input is closed; so it does
// not outlive the story, however that ends.
const roleVariable = "QUICKSTART_ROLE"

var roles = map[string]func(args []string, ready func(line string), ended <-chan struct{}) error{
	"etcd":     etcdChild,
	"instance": instanceChild,
}

// A child is a process that the story started.
type child struct {
	command *exec.Cmd
	stdin   io.Closer
	exited  chan struct{}
}

const (
	readyTimeout = 15 * time.Second
	stopTimeout  = 5 * time.Second
)

// startChild starts a process, waits until it is ready, and returns what it
// said then.
func startChild(ctx context.Context, role string, args ...string) (*child, string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	command := exec.Command(program, args...)
	command.Env = append(os.Environ(), roleVariable+"="+role)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := command.Start(); err != nil {
		return nil, "", err
	}
	c := &child{command: command, stdin: stdin, exited: make(chan struct{})}
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		lines <- strings.TrimSpace(line)
		_ = command.Wait()
		close(c.exited)
	}()
	line, err := firstLine(ctx, lines)
	if err != nil {
		c.kill()
		return nil, "", fmt.Errorf("start %s: %w", role, err)
	}
	return c, line, nil
}

func firstLine(ctx context.Context, lines <-chan string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	select {
	case line := <-lines:
		if line == "" {
			return "", errors.New("it ended before it was ready")
		}
		return line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// kill ends the process without a chance to say a word (SIGKILL).
func (c *child) kill() {
	_ = c.command.Process.Kill()
	<-c.exited
}

// stop asks the process to end, and waits until it has.
func (c *child) stop() {
	_ = c.stdin.Close()
	select {
	case <-c.exited:
	case <-time.After(stopTimeout):
		c.kill()
	}
}

// childMain is the main function of a child.
func childMain(role string) error {
	// Ctrl-C in a terminal reaches every process; the story decides who ends when.
	signal.Ignore(os.Interrupt)
	life, ok := roles[role]
	if !ok {
		return fmt.Errorf("%s=%s is not known", roleVariable, role)
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	return life(os.Args[1:], func(line string) { fmt.Println(line) }, ended)
}

// instanceChild is one instance: etcd's endpoints, prefix and name are given.
func instanceChild(args []string, ready func(string), ended <-chan struct{}) error {
	i, err := startInstance(strings.Split(args[0], ","), args[1], args[2])
	if err != nil {
		return err
	}
	defer i.stop()
	ready(i.address)
	<-ended
	return nil
}
