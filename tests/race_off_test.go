//go:build !race

package tests

// patienceFactor stretches what tests wait for, and bounds are checked against.
const patienceFactor = 1

// heavyAtOnce is how many tests may run at a time that keep a core busy.
const heavyAtOnce = 3
