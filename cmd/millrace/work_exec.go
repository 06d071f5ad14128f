package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// plainWord is a word that the shell takes as it is: no quotes, expansions, assignments or operators.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./+,@-]+$`)

// askShell is how long the shell may take to look a command up.
const askShell = 5 * time.Second

// checkCommand refuses a command that can't be run here, as far as its first word tells: a path is looked
// at, and of a name the shell itself is asked, since it may be one of its own commands. A command that
// begins with anything else is left to the shell.
func checkCommand(ctx context.Context, command string) error {
	var word string
	if words := strings.Fields(command); len(words) > 0 {
		word = words[0]
	}
	switch {
	case !plainWord.MatchString(word):
		return nil
	case strings.Contains(word, "/"):
		_, err := exec.LookPath(word)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return fmt.Errorf("--exec %s: there is no such file; a path is relative to the folder that millrace runs in", word)
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EISDIR):
			return fmt.Errorf("--exec %s: it can't be executed: chmod +x %s, or name what runs it, such as sh %s", word, word, word)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askShell)
	defer cancel()
	err := exec.CommandContext(ctx, "/bin/sh", "-c", `command -v -- "$1" >/dev/null 2>&1`, "sh", word).Run()
	var exit *exec.ExitError
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case errors.As(err, &exit):
		return fmt.Errorf("--exec %s: the shell finds no such command: look at PATH, or give a path such as ./%s", word, word)
	}
	return fmt.Errorf("--exec needs a shell: %w", err) // an image without one, say
}
