package etcdv3

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
func wellFormed(t testing.TB, s instances) {
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
func agrees(t testing.TB, e *entries, m model) {
	t.Helper()
	wellFormed(t, e.sorted)
	if !maps.Equal(e.values, m) {
		t.Fatalf("%d keys, want %d", len(e.values), len(m))
	}
	want := m.instances()
	if got := e.sorted.strings(); !slices.Equal(got, want) {
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
	set  instances
	want []string
}

// filled returns entries with n keys as a list of etcd would load them, and
// their model. Keys that are equal modulo spread share a value.
func filled(n, spread int) (*entries, model) {
	e, m := newEntries(n), model{}
	for i := range n {
		key, value := fmt.Sprintf("k%06d", i), fmt.Sprintf("v%06d", i%spread)
		e.load([]byte(key), []byte(value))
		m[key] = value
	}
	e.sort()
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
	e := newEntries(1)
	e.load(page[:3], page[3:8])
	if string(page) != "keyvaluerest" || e.values["key"] != "value" {
		t.Errorf("%q, %v", page, e.values)
	}
	page[0], page[3] = 'x', 'x'
	if e.values["key"] != "value" {
		t.Error("the set changes with the response")
	}
}

func TestEntries_InstanceStaysUntilItsLastKeyGoes(t *testing.T) {
	e, m := newEntries(0), model{}
	for i := range 4 {
		key := fmt.Sprint("k", i)
		e.put([]byte(key), []byte("same"))
		m[key] = "same"
		agrees(t, e, m)
	}
	e.put([]byte("k0"), []byte("same")) // again
	agrees(t, e, m)
	e.put([]byte("k1"), []byte("other"))
	m["k1"] = "other"
	agrees(t, e, m)
	for _, key := range []string{"k0", "unknown", "k2", "k3", "k3", "k1"} {
		e.delete([]byte(key))
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
		e, m := newEntries(0), model{}
		keys := random.Perm(3000)
		if order != "random" {
			slices.Sort(keys)
		}
		if order == "down" {
			slices.Reverse(keys)
		}
		for _, k := range keys {
			key := fmt.Sprintf("%06d", k)
			e.put([]byte(key), []byte(key))
			m[key] = key
		}
		agrees(t, e, m)
		if n := len(e.sorted.chunks); n > 6*int(math.Sqrt(3000)) {
			t.Errorf("%s: %d chunks", order, n)
		}
		for _, k := range keys[:2900] {
			key := fmt.Sprintf("%06d", k)
			e.delete([]byte(key))
			delete(m, key)
			wellFormed(t, e.sorted)
		}
		agrees(t, e, m)
	}
}

func TestInstances_OlderVersionsStayAsTheyWere(t *testing.T) {
	e, m := filled(2000, 2000)
	var versions []version
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 200 {
		versions = append(versions, version{e.sorted, e.sorted.strings()})
		key := fmt.Sprintf("k%06d", random.IntN(3000))
		if i%2 == 0 {
			e.put([]byte(key), []byte(key))
			m[key] = key
		} else {
			e.delete([]byte(key))
			delete(m, key)
		}
	}
	agrees(t, e, m)
	for i, v := range versions {
		if !slices.Equal(v.set.strings(), v.want) {
			t.Fatalf("version %d has changed", i)
		}
	}
}

func TestInstances_ReplacedInItsChunk_IsAsRemovedAndAdded(t *testing.T) {
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf("%04d", 10*i))
	}
	s := newInstances(all)
	inOneChunk := 0
	for _, old := range all {
		for i := -1; i < 1000; i++ {
			value := fmt.Sprintf("%04d", i) // "-001" comes before all others
			got, ok := s.replaced(old, value)
			if !ok {
				continue
			}
			inOneChunk++
			wellFormed(t, got)
			if want := first(s.without(old).with(value)); !got.equal(want) {
				t.Fatalf("%q for %q: %q, want %q", value, old, got.strings(), want.strings())
			}
		}
	}
	if inOneChunk < 100*900/10 {
		t.Errorf("%d of 100,000 were in one chunk", inOneChunk)
	}
	if _, ok := s.replaced("0000", "0010"); ok {
		t.Error("an instance was replaced by one that is there already")
	}
	if _, ok := s.replaced("0001", "0002"); ok {
		t.Error("an instance was replaced that is not there")
	}
}

func TestInstances_StringsBelongToTheCaller(t *testing.T) {
	e, _ := filled(3, 3)
	copied := e.sorted.strings()
	copied[0] = "changed"
	if got := e.sorted.strings()[0]; got != "v000000" {
		t.Error(got)
	}
	if (instances{}).strings() == nil {
		t.Error("no instances are nil, which is no set to subscribers that compare")
	}
}

func TestInstances_EqualComparesWhatTheyHold(t *testing.T) {
	numbers := func(from, to int) (all []string) {
		for i := from; i < to; i++ {
			all = append(all, fmt.Sprintf("%06d", i))
		}
		return all
	}
	// The same instances in chunks with other borders: put one by one.
	grown := instances{}
	for _, value := range numbers(0, 1000) {
		grown, _ = grown.with(value)
	}
	loaded := newInstances(numbers(0, 1000))
	short, _ := newInstances(numbers(0, 999)).with("x")
	// As many chunks, of other lengths.
	shifted := newInstances(numbers(0, 400)).without("000000")
	for _, test := range []struct {
		name string
		a, b instances
		want bool
	}{
		{"none", instances{}, newInstances(nil), true},
		{"itself", loaded, loaded, true},
		{"other borders", grown, loaded, true},
		{"one less", loaded, loaded.without("000500"), false},
		{"one other", loaded, short, false},
		{"one other in a version of it", loaded, first(loaded.without("000500").with("000500x")), false},
		{"removed and put back", loaded, first(loaded.without("000500").with("000500")), true},
		{"as many chunks of other lengths", shifted, newInstances(numbers(1, 400)), true},
		{"as many chunks, other instances", shifted, newInstances(append(numbers(1, 399), "x")), false},
	} {
		if test.a.equal(test.b) != test.want || test.b.equal(test.a) != test.want {
			t.Errorf("%s: not %v", test.name, test.want)
		}
	}
}

func first(s instances, _ bool) instances { return s }

func TestInstances_WithAndWithoutWhatIsThere(t *testing.T) {
	s := newInstances([]string{"b", "d"})
	if same, added := s.with("b"); added || !same.equal(s) {
		t.Error("b was added twice")
	}
	for _, absent := range []string{"a", "c", "e"} {
		if same := s.without(absent); !same.equal(s) {
			t.Errorf("%s was removed, which was not there", absent)
		}
		with, added := s.with(absent)
		wellFormed(t, with)
		if !added || !with.without(absent).equal(s) {
			t.Errorf("%s does not come and go", absent)
		}
	}
	if none := (instances{}).without("a"); none.len != 0 {
		t.Error("a was removed from nothing")
	}
}
