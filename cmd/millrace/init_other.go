//go:build !linux

package main

// asInit: containers are Linux.
func asInit() (code int, is bool) { return 0, false }
