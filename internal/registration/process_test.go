package registration

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// claimant returns a registration of a client that serves a call for a key.
func (o *owners) claimant(b *Book, name string, call uint64) *registration {
	r := &registration{book: b}
	r.key.name = name
	o.serve(r, call, true)
	return r
}

// lives reports whether a registration may put its key, and has it then.
func (o *owners) lives(r *registration, cluster uint64, lease int64) (losers []*registration, taken bool) {
	o.put(r, cluster, lease)
	if o.isLate(r, 0) {
		return nil, false
	}
	return o.take(r, cluster)
}

func TestOwners_WhoWasCalledLastHasTheKey(t *testing.T) {
	const here, there = 1, 2
	for name, story := range map[string]func(t *testing.T, o *owners, a, b *Book){
		"in order": func(t *testing.T, o *owners, a, b *Book) {
			first, second := o.claimant(a, "k", o.call()), o.claimant(b, "k", o.call())
			if losers, taken := o.lives(first, here, 1); !taken || len(losers) > 0 {
				t.Error("the first", losers, taken)
			}
			if losers, taken := o.lives(second, here, 2); !taken || !slices.Equal(losers, []*registration{first}) {
				t.Error("the second", losers, taken)
			}
		},
		"the later call is answered first": func(t *testing.T, o *owners, a, b *Book) {
			first, second := o.claimant(a, "k", o.call()), o.claimant(b, "k", o.call())
			o.put(first, here, 1) // and there is no answer yet
			if losers, taken := o.lives(second, here, 2); !taken || !slices.Equal(losers, []*registration{first}) {
				t.Error("the second", losers, taken)
			}
			if _, taken := o.take(first, here); taken || !o.isLate(first, 0) {
				t.Error("the first has it back")
			}
		},
		"the later put is known by its lease alone": func(t *testing.T, o *owners, a, b *Book) {
			first, second := o.claimant(a, "k", o.call()), o.claimant(b, "k", o.call())
			o.put(first, here, 1)
			o.put(second, here, 2) // carried out, and not answered
			if o.isLate(first, 0) || !o.isLate(first, 2) || o.isLate(first, 3) {
				t.Error("a key under the second's lease is the second's, and no other")
			}
			if o.isLate(second, 1) {
				t.Error("the second yields to the first")
			}
			o.put(second, here, 3) // another value, which gets another lease
			if !o.isLate(first, 2) || !o.isLate(first, 3) {
				t.Error("a key under a lease that the second had is not the second's")
			}
		},
		"removed meanwhile": func(t *testing.T, o *owners, a, b *Book) {
			first := o.claimant(a, "k", o.call())
			o.put(first, here, 1)
			if losers := o.remove(b, place{here, "k"}, o.call()); !slices.Equal(losers, []*registration{first}) {
				t.Error(losers)
			}
			if !o.isLate(first, 0) {
				t.Error("the first does not hear of it")
			}
			third := o.claimant(a, "k", o.call())
			if _, taken := o.lives(third, here, 3); !taken {
				t.Error("a call after the removal")
			}
		},
		"an earlier call removes nothing": func(t *testing.T, o *owners, a, b *Book) {
			removal := o.call()
			later := o.claimant(a, "k", o.call())
			o.lives(later, here, 1)
			if losers := o.remove(b, place{here, "k"}, removal); len(losers) > 0 || o.isLate(later, 0) {
				t.Error(losers)
			}
		},
		"another cluster, another key, the same client": func(t *testing.T, o *owners, a, b *Book) {
			first := o.claimant(a, "k", o.call())
			o.lives(first, here, 1)
			for _, other := range []struct {
				book    *Book
				name    string
				cluster uint64
			}{{b, "k", there}, {b, "l", here}, {a, "k", here}} {
				r := o.claimant(other.book, other.name, o.call())
				if losers, taken := o.lives(r, other.cluster, 2); !taken || len(losers) > 0 {
					t.Error(other, losers, taken)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, &owners{}, &Book{}, &Book{})
		})
	}
}

// In whatever order puts are answered, one is left: that of the last call. Nothing
// is remembered of registrations that are over.
func TestOwners_AnyOrder(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		o := &owners{}
		var all []*registration
		dead := map[*registration]bool{}
		for range 2 + random.IntN(5) {
			all = append(all, o.claimant(&Book{}, "k", o.call()))
		}
		last := all[len(all)-1]
		for lease, i := range random.Perm(len(all)) {
			o.put(all[i], 1, int64(lease))
		}
		for _, i := range random.Perm(len(all)) {
			losers, taken := o.take(all[i], 1)
			if !taken {
				dead[all[i]] = true
			}
			for _, loser := range losers {
				dead[loser] = true
			}
		}
		if dead[last] || len(dead) != len(all)-1 || o.current[place{1, "k"}] != last {
			t.Fatalf("seed %d: %d of %d ended", seed, len(dead), len(all))
		}
		for _, r := range all {
			o.drop(r)
		}
		if len(o.current)+len(o.waiting) > 0 {
			t.Fatalf("seed %d: %v, %v are left", seed, o.current, o.waiting)
		}
	}
}
