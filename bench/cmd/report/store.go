package main

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// store is the directory where what was measured is kept.
type store string

func (s store) path(name string) string { return filepath.Join(string(s), name) }

func (s store) save(name string, value any) error {
	text, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(s.path(name), append(text, '\n'), 0o644)
}

func (s store) load(name string, into any) error {
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
