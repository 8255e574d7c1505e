//go:build race

package fleet

// raced is true with the race detector: a fleet of ten thousand takes 16 GB then,
// and a quarter of an hour.
const raced = true
