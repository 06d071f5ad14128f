// Package arch holds the shape of the house: tests that fail on an import against the arrows (rules_test.go is the table), on
// a name at the top of the repository that the design does not know, and on a change of the exported API that docs/api.txt
// does not show. It has no code of its own.
//
// Imports are read from the source of every file, whatever its build constraints, so an arrow cannot be broken on one
// operating system only.
package arch
