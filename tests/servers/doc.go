// Package servers runs the main promises against real servers of several
// versions, each a process of its own, and against what stands in front of
// servers. scripts/servers builds or unpacks them, and runs the tests with the tag
// servers. Without the tag go test says that the package has no test files.
package servers
