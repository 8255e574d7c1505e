package main

import (
	"strings"
	"testing"
)

// said is the output of a run of two packages, in which three tests speak.
const said = `
{"Action":"output","Package":"github.com/kitsd/etcdv3/tests","Test":"TestA/member","Output":"    x_test.go:1: promise 3 bound 5s measured 1.36s\n"}
{"Action":"output","Package":"github.com/kitsd/etcdv3/tests","Test":"TestA","Output":"    x_test.go:1: promise 3 bound 5s measured 240ms\n"}
{"Action":"output","Package":"github.com/kitsd/etcdv3/tests","Test":"TestB","Output":"    x_test.go:1: promise 7 holds\n"}
{"Action":"output","Package":"github.com/kitsd/etcdv3/internal/lease","Test":"TestC","Output":"    x_test.go:1: promise 27 holds\n"}
not json
`

func TestRun_BecomesResults(t *testing.T) {
	all, packages, err := readRun(strings.NewReader(said))
	if err != nil {
		t.Fatal(err)
	}
	want := "3 tests TestA 5s 1.36s\n7 tests TestB\n27 internal/lease TestC\n"
	if got := all.String(); got != want || len(packages) != 2 {
		t.Errorf("got\n%sof %v, want\n%s", got, packages, want)
	}
}

func TestRun_ThatFailed_IsAnError(t *testing.T) {
	if _, _, err := readRun(strings.NewReader(said + `{"Action":"fail","Package":"p","Test":"TestA"}`)); err == nil {
		t.Error("want an error")
	}
}

func TestMerge_KeepsTheSlowestAndWhatDidNotRun(t *testing.T) {
	slow := result{promise: 3, pkg: "tests", test: "TestSlow", bound: 5e9}
	gone := result{promise: 3, pkg: "tests", test: "TestThatIsGone"}
	other := result{promise: 3, pkg: "tests/virtual", test: "TestOther"}
	before, now := results{slow: 2e9, gone: 0, other: 0}, results{slow: 1e9}
	ran := map[string]bool{"tests": true}
	if got := merge(before, now, ran, false); len(got) != 2 || got[slow] != 2e9 {
		t.Errorf("got %v, want the slowest, and the test of another package", got)
	}
	if got := merge(before, now, ran, true); len(got) != 2 || got[slow] != 1e9 {
		t.Errorf("with -update got %v, want the last", got)
	}
}

func TestPromises_CanBeRead(t *testing.T) {
	all, err := readPromises("promises.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range all {
		if p.short == "" || p.long == "" || len(p.against) > 0 && p.bound == "" {
			t.Errorf("promise %d is %+v", i+1, p)
		}
	}
}
