// Package virtual holds black-box tests in virtual time. They use the package as
// a program does, on an etcd in memory, inside of a bubble of testing/synctest:
// an hour of heartbeats takes milliseconds, and moments can be chosen exactly.
// What only a real member can tell is tested in the package above.
package virtual
