package instances

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// model is what entries has to be equal to: a plain map, and a sort.
type model map[string]string

func (m model) instances() []string {
	return slices.Compact(slices.Sorted(maps.Values(m)))
}

// wellFormed fails unless a set is sorted and unique, in chunks that are
// neither empty nor too large.
func wellFormed(t testing.TB, s Set) {
	t.Helper()
	n, last, any := 0, "", false
	for i, chunk := range s.chunks {
		if len(chunk) == 0 || len(chunk) >= 2*chunkSize(1<<16) {
			t.Fatalf("chunk %d of %d holds %d instances", i, len(s.chunks), len(chunk))
		}
		for _, value := range chunk {
			if any && value <= last {
				t.Fatalf("%q comes after %q", value, last)
			}
			last, any = value, true
			n++
		}
	}
	if n != s.len {
		t.Fatalf("%d instances, but len is %d", n, s.len)
	}
}

// agrees fails unless entries hold what the model does.
func agrees(t testing.TB, e *Entries, m model) {
	t.Helper()
	wellFormed(t, e.sorted)
	if !maps.Equal(e.values, m) {
		t.Fatalf("%d keys, want %d", len(e.values), len(m))
	}
	want := m.instances()
	if got := e.sorted.Strings(); !slices.Equal(got, want) {
		t.Fatalf("%d instances, want %d: %.200q, want %.200q", len(got), len(want), got, want)
	}
	if repeated := repeats(m); !maps.Equal(e.repeated, repeated) {
		t.Fatalf("repeated values %v, want %v", e.repeated, repeated)
	}
}

// repeats returns how many keys beyond the first hold a value.
func repeats(m model) map[string]int {
	n := map[string]int{}
	for _, value := range m {
		n[value]++
	}
	maps.DeleteFunc(n, func(_ string, n int) bool { return n == 1 })
	for value := range n {
		n[value]--
	}
	return n
}

// version is a set as it was at a moment.
type version struct {
	set  Set
	want []string
}

// filled returns entries with n keys as a list of etcd would load them, and
// their model. Keys that are equal modulo spread share a value.
func filled(n, spread int) (*Entries, model) {
	e, m := NewEntries(n), model{}
	for i := range n {
		key, value := fmt.Sprintf("k%06d", i), fmt.Sprintf("v%06d", i%spread)
		e.Load([]byte(key), []byte(value))
		m[key] = value
	}
	e.Sort()
	return e, m
}

func TestEntries_LoadedSetIsSortedAndUnique(t *testing.T) {
	for _, n := range []int{0, 1, 2, 15, 16, 17, 18, 19, 20, 21, 22, 5000} {
		for _, spread := range []int{1, 7, max(n, 1)} {
			e, m := filled(n, spread)
			agrees(t, e, m)
		}
	}
}

func TestEntries_LoadLeavesTheResponseAlone(t *testing.T) {
	page := []byte("keyvaluerest") // as a decoder that shares its buffer gives it
	e := NewEntries(1)
	e.Load(page[:3], page[3:8])
	if string(page) != "keyvaluerest" || e.values["key"] != "value" {
		t.Errorf("%q, %v", page, e.values)
	}
	page[0], page[3] = 'x', 'x'
	if e.values["key"] != "value" {
		t.Error("the set changes with the response")
	}
}

func TestEntries_CountsThatNoEtcdGives_AreNoRoom(t *testing.T) {
	for _, n := range []int{-1, math.MinInt, math.MaxInt} {
		e, m := NewEntries(n), model{"k": "v"}
		e.Load([]byte("k"), []byte("v"))
		e.Sort()
		agrees(t, e, m)
	}
}

func TestEntries_KeyLoadedTwice_HasItsLastValue(t *testing.T) {
	e := NewEntries(2)
	e.Load([]byte("k"), []byte("a"))
	e.Load([]byte("other"), []byte("o"))
	e.Load([]byte("k"), []byte("b"))
	e.Sort()
	agrees(t, e, model{"k": "b", "other": "o"})
}

func TestEntries_SameKeys_ComparesKeysAndValues(t *testing.T) {
	all, _ := filled(10, 3)
	for name, test := range map[string]struct {
		change func(*Entries)
		want   bool
	}{
		"nothing":               {func(*Entries) {}, true},
		"there and back":        {func(e *Entries) { e.Put([]byte("x"), nil); e.Delete([]byte("x")) }, true},
		"one key more":          {func(e *Entries) { e.Put([]byte("x"), []byte("v000000")) }, false},
		"one key less":          {func(e *Entries) { e.Delete([]byte("k000000")) }, false},
		"another value":         {func(e *Entries) { e.Put([]byte("k000000"), []byte("v000001")) }, false},
		"another key, same set": {func(e *Entries) { e.Delete([]byte("k000000")); e.Put([]byte("x"), []byte("v000000")) }, false},
	} {
		other, _ := filled(10, 3)
		test.change(other)
		if all.SameKeys(other) != test.want || other.SameKeys(all) != test.want {
			t.Errorf("%s: not %v", name, test.want)
		}
	}
}

func TestEntries_InstanceStaysUntilItsLastKeyGoes(t *testing.T) {
	e, m := NewEntries(0), model{}
	for i := range 4 {
		key := fmt.Sprint("k", i)
		e.Put([]byte(key), []byte("same"))
		m[key] = "same"
		agrees(t, e, m)
	}
	e.Put([]byte("k0"), []byte("same")) // again
	agrees(t, e, m)
	e.Put([]byte("k1"), []byte("other"))
	m["k1"] = "other"
	agrees(t, e, m)
	for _, key := range []string{"k0", "unknown", "k2", "k3", "k3", "k1"} {
		e.Delete([]byte(key))
		delete(m, key)
		agrees(t, e, m)
	}
	if len(e.sorted.chunks) != 0 {
		t.Error("an empty set has a chunk")
	}
}

func TestEntries_GrowsAndShrinksInAnyOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, order := range []string{"up", "down", "random"} {
		e, m := NewEntries(0), model{}
		keys := random.Perm(3000)
		if order != "random" {
			slices.Sort(keys)
		}
		if order == "down" {
			slices.Reverse(keys)
		}
		for _, k := range keys {
			key := fmt.Sprintf("%06d", k)
			e.Put([]byte(key), []byte(key))
			m[key] = key
		}
		agrees(t, e, m)
		if n := len(e.sorted.chunks); n > 6*int(math.Sqrt(3000)) {
			t.Errorf("%s: %d chunks", order, n)
		}
		for _, k := range keys[:2900] {
			key := fmt.Sprintf("%06d", k)
			e.Delete([]byte(key))
			delete(m, key)
			wellFormed(t, e.sorted)
		}
		agrees(t, e, m)
	}
}
