//go:build !unix

package spool

import (
	"errors"
	"os"
)

// tryLock: a lock that ends with its process is there on Unix only.
func tryLock(*os.File) (bool, error) { return false, errors.ErrUnsupported }

func tryShare(*os.File) (bool, error) { return false, errors.ErrUnsupported }

func unlock(*os.File) error { return nil }

func likeFolder(string) {}

func keepOwner(*os.File, string) error { return nil }
