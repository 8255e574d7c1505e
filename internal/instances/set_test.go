package instances

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSet_OlderVersionsStayAsTheyWere(t *testing.T) {
	e, m := filled(2000, 2000)
	var versions []version
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 200 {
		versions = append(versions, version{e.sorted, e.sorted.Strings()})
		key := fmt.Sprintf("k%06d", random.IntN(3000))
		if i%2 == 0 {
			e.Put([]byte(key), []byte(key))
			m[key] = key
		} else {
			e.Delete([]byte(key))
			delete(m, key)
		}
	}
	agrees(t, e, m)
	for i, v := range versions {
		if !slices.Equal(v.set.Strings(), v.want) {
			t.Fatalf("version %d has changed", i)
		}
	}
}

func TestSet_ReplacedInItsChunk_IsAsRemovedAndAdded(t *testing.T) {
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf("%04d", 10*i))
	}
	s := FromSorted(all)
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
			if want := first(s.without(old).with(value)); !got.Equal(want) {
				t.Fatalf("%q for %q: %q, want %q", value, old, got.Strings(), want.Strings())
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

// becomes makes a draft, or one with room for more, a copy of a set.
func becomes(t testing.TB, d *Draft, s Set) *Draft {
	t.Helper()
	if d == nil {
		d = s.WithRoom()
	}
	d = d.Become(s)
	if !slices.Equal(d.Strings(), s.Strings()) {
		t.Fatalf("the draft holds %d: %.200q, want %d: %.200q", len(d.all), d.all, s.len, s.Strings())
	}
	for _, left := range d.all[len(d.all):cap(d.all)] {
		if left != "" {
			t.Fatalf("%q stays in memory behind the draft", left)
		}
	}
	return d
}

func TestDraft_FollowsASetThatGrowsAndShrinks(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	e, _ := filled(1000, 1000)
	d := becomes(t, nil, e.sorted)
	for i := range 3000 {
		key := []byte(fmt.Sprintf("k%06d", random.IntN(2000)))
		switch {
		case i < 1000, i%3 > 0:
			e.Put(key, fmt.Appendf(nil, "v%d", random.IntN(5000)))
		default:
			e.Delete(key)
		}
		if i%7 > 2 { // else it falls behind by more than one change
			d = becomes(t, d, e.sorted)
		}
	}
	for key := range maps.Clone(e.values) {
		e.Delete([]byte(key))
		d = becomes(t, d, e.sorted)
	}
	if d.all == nil {
		t.Error("no instances are nil, which is no set to subscribers that compare")
	}
	other, _ := filled(500, 500) // shares nothing
	becomes(t, becomes(t, d, other.sorted), FromSorted(nil))
}

func TestSet_LenCountsInstances(t *testing.T) {
	e, m := filled(100, 7)
	if got := e.Set().Len(); got != len(m.instances()) || (Set{}).Len() != 0 {
		t.Error(got)
	}
}

func TestSet_StringsBelongToTheCaller(t *testing.T) {
	e, _ := filled(3, 3)
	copied := e.sorted.Strings()
	copied[0] = "changed"
	if got := e.sorted.Strings()[0]; got != "v000000" {
		t.Error(got)
	}
	if (Set{}).Strings() == nil {
		t.Error("no instances are nil, which is no set to subscribers that compare")
	}
}

func TestSet_EqualComparesWhatTheyHold(t *testing.T) {
	numbers := func(from, to int) (all []string) {
		for i := from; i < to; i++ {
			all = append(all, fmt.Sprintf("%06d", i))
		}
		return all
	}
	// The same instances in chunks with other borders: put one by one.
	grown := Set{}
	for _, value := range numbers(0, 1000) {
		grown, _ = grown.with(value)
	}
	loaded := FromSorted(numbers(0, 1000))
	short, _ := FromSorted(numbers(0, 999)).with("x")
	// As many chunks, of other lengths.
	shifted := FromSorted(numbers(0, 400)).without("000000")
	for _, test := range []struct {
		name string
		a, b Set
		want bool
	}{
		{"none", Set{}, FromSorted(nil), true},
		{"itself", loaded, loaded, true},
		{"other borders", grown, loaded, true},
		{"one less", loaded, loaded.without("000500"), false},
		{"one other", loaded, short, false},
		{"one other in a version of it", loaded, first(loaded.without("000500").with("000500x")), false},
		{"removed and put back", loaded, first(loaded.without("000500").with("000500")), true},
		{"as many chunks of other lengths", shifted, FromSorted(numbers(1, 400)), true},
		{"as many chunks, other instances", shifted, FromSorted(append(numbers(1, 399), "x")), false},
	} {
		if test.a.Equal(test.b) != test.want || test.b.Equal(test.a) != test.want {
			t.Errorf("%s: not %v", test.name, test.want)
		}
	}
}

func first(s Set, _ bool) Set { return s }

func TestSet_WithAndWithoutWhatIsThere(t *testing.T) {
	s := FromSorted([]string{"b", "d"})
	if same, added := s.with("b"); added || !same.Equal(s) {
		t.Error("b was added twice")
	}
	for _, absent := range []string{"a", "c", "e"} {
		if same := s.without(absent); !same.Equal(s) {
			t.Errorf("%s was removed, which was not there", absent)
		}
		with, added := s.with(absent)
		wellFormed(t, with)
		if !added || !with.without(absent).Equal(s) {
			t.Errorf("%s does not come and go", absent)
		}
	}
	if none := (Set{}).without("a"); none.len != 0 {
		t.Error("a was removed from nothing")
	}
}
