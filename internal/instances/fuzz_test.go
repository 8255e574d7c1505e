package instances

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// FuzzEntries applies what the bytes say to a set of the given size: each
// three of them are an operation and a key.
func FuzzEntries(f *testing.F) {
	f.Add(uint16(0), uint8(1), []byte("\x00\x00\x01\x01\x00\x01\x02\x00\x01"))
	f.Add(uint16(255), uint8(255), []byte("\x00\xff\xff\x00\xff\xfe\x02\x00\x00"))
	f.Add(uint16(2000), uint8(3), []byte("\x03\x00\x00\x04\x01\x00\x03\x02\x00"))
	f.Add(uint16(4000), uint8(200), slices.Concat(
		[]byte("\x03\x00\x10\x03\x01\x10\x04\x00\x10\x04\x00\x80\x01\x00\x20\x02\x00\x20\x03\x08\x00"),
		slices.Repeat([]byte("\x00\x00\x00\x02\x00\x00"), 40)))
	f.Add(uint16(600), uint8(100), slices.Repeat([]byte("\x04\x00\x00\x04\x01\x00\x04\x02\x00\x03\x00\x07"), 4))
	f.Add(uint16(600), uint8(100), slices.Repeat([]byte("\x05\x00\x00\x05\x01\x00\x0b\x01\x00\x05\x00\x07"), 4))
	f.Fuzz(func(t *testing.T, size uint16, spread uint8, operations []byte) {
		e, m := filled(int(size)%5000, 1+int(spread)*20)
		agrees(t, e, m)
		versions := []version{{e.sorted, e.sorted.Strings()}}
		var ahead *Draft
		for i := 0; i+3 <= len(operations) && i < 3*200; i += 3 {
			operate(e, m, operations[i], int(binary.BigEndian.Uint16(operations[i+1:])))
			wellFormed(t, e.sorted)
			if i%(3+3*int(spread%3)) == 0 {
				ahead = becomes(t, ahead, e.sorted)
			}
			if i%48 == 0 {
				versions = append(versions, version{e.sorted, e.sorted.Strings()})
			}
		}
		agrees(t, e, m)
		for i, v := range versions {
			if !slices.Equal(v.set.Strings(), v.want) {
				t.Fatalf("version %d has changed", i)
			}
			if v.set.Equal(e.sorted) != slices.Equal(v.want, e.sorted.Strings()) {
				t.Fatalf("equal is wrong about version %d", i)
			}
		}
	})
}

// operate applies one operation to a set and to its model.
func operate(e *Entries, m model, operation byte, n int) {
	key := fmt.Sprintf("k%06d", n)
	put := func(key, value string) {
		e.Put([]byte(key), []byte(value))
		m[key] = value
	}
	remove := func(key string) {
		e.Delete([]byte(key))
		delete(m, key)
	}
	switch operation % 6 {
	case 0: // an instance of its own
		put(key, key)
	case 1: // one that others have
		put(key, fmt.Sprintf("v%06d", n%97))
	case 2:
		remove(key)
	case 3: // a burst, in the middle of the order
		for i := range 256 {
			put(fmt.Sprintf("%s/%03d", key, i), fmt.Sprintf("v%06d/%03d", n%7, i))
		}
	case 4: // many leave at once
		for i := range 256 {
			remove(fmt.Sprintf("k%06d", n+i))
			remove(fmt.Sprintf("%s/%03d", key, i))
		}
	case 5: // the same instance, a little different
		put(key, fmt.Sprintf("%s?%d", m[key], operation))
	}
}
