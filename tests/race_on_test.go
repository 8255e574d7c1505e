//go:build race

package tests

// patienceFactor stretches what tests wait for, and bounds are checked against:
// the race detector makes etcd itself five to ten times slower.
const patienceFactor = 3

// heavyAtOnce is how many tests may run at a time that keep a core busy.
const heavyAtOnce = 2
