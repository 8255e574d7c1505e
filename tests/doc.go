// Package tests holds the black-box tests: they use the package as a program
// does, and break real etcd members, the ways to them, and what they store. It
// is a module of its own, so that nobody who imports the package meets what
// they need.
package tests
