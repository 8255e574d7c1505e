//go:build !race

package etcdv3

// patienceFactor stretches what tests wait for, and bounds are checked against.
const patienceFactor = 1
