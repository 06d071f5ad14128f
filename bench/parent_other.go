//go:build !linux

package main

import "syscall"

// dieWithParent: only Linux ties a child's life to its parent's.
func dieWithParent() *syscall.SysProcAttr { return nil }
