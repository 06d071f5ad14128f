package arch

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/api.txt instead of comparing with it")

// public are the packages that others may import.
var public = []string{"pipeline", "router", "handlers", "handlers/httpapi", "telemetry", "telemetry/otelsdk"}

// TestExportedAPI compares what the public packages export with docs/api.txt, so that the surface grows in review and not by
// accident.
func TestExportedAPI(t *testing.T) {
	t.Parallel()
	top := root(t)
	got, err := exportedAPI(top, public)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join(top, "docs", "api.txt")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatalf("%v; write it with: make api", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the exported API is not the one in docs/api.txt; if it should be, run: make api\n(- docs/api.txt, + now)\n%s", diff)
	}
}

func TestDumpShowsWhatIsExportedAndNothingElse(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	write(t, filepath.Join(top, "a", "a.go"), `// Package a is commented.
package a

import "errors"

// Answer is commented.
const Answer int = 42

const hidden = 1

const (
	Low Level = iota
	High
)

type Level int

var ErrGone, errHidden = errors.New("gone"), errors.New("hidden")

var Count int = 7

// Thing is commented.
type Thing[T any] struct {
	Name   string // commented
	// Size is commented.
	Size   int

	secret int
}

// New is a constructor.
func New[T any](name string) *Thing[T] { return &Thing[T]{Name: name} }

func (t *Thing[T]) Do(n int) error { return nil }
func (t *Thing[T]) hide()          {}
func lower()                       {}

func Free(fn func(int) bool, rest ...string) (n int, err error) { return 0, nil }
`)
	write(t, filepath.Join(top, "a", "a_test.go"), "package a\n\nfunc Helper() {}\n")
	want := `package github.com/rishi-platform/millrace/a

const Answer int = 42

var Count int

var ErrGone = …

func Free(fn func(int) bool, rest ...string) (n int, err error)

type Level int

const (
	Low	Level	= iota
	High
)

type Thing[T any] struct {
	Name	string
	Size	int
	// contains filtered or unexported fields
}

func New[T any](name string) *Thing[T]

func (t *Thing[T]) Do(n int) error
`
	got, err := exportedAPI(top, []string{"a", "missing"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("- want, + got\n%s", diff)
	}
}

// exportedAPI lists the exported declarations of the packages below top, without comments and bodies. A folder that
// is missing, or that holds folders only, is not an error: the list of public packages is older than some of them.
func exportedAPI(top string, packages []string) ([]byte, error) {
	var out bytes.Buffer
	for _, name := range packages {
		dir := filepath.Join(top, filepath.FromSlash(name))
		text, err := dump(dir, module+"/"+name)
		if noPackage := new(build.NoGoError); errors.Is(err, fs.ErrNotExist) || errors.As(err, &noPackage) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the API of %s: %w", name, err)
		}
		if out.Len() > 0 {
			out.WriteByte('\n')
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}

// dump lists one package. It reads the source only, so it needs neither the network nor code that compiles elsewhere.
func dump(dir, importPath string) ([]byte, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	files, err := parse(fset, dir)
	if err != nil {
		return nil, err
	}
	pkg, err := doc.NewFromFiles(fset, files, importPath)
	if err != nil {
		return nil, err
	}
	p := dumper{fset: fset}
	fmt.Fprintf(&p.out, "package %s\n", importPath)
	p.values(pkg.Consts)
	p.values(pkg.Vars)
	p.funcs(pkg.Funcs)
	for _, t := range pkg.Types {
		p.declaration(t.Decl)
		p.values(t.Consts)
		p.values(t.Vars)
		p.funcs(t.Funcs)
		p.funcs(t.Methods)
	}
	return p.out.Bytes(), p.err
}

// parse reads the files that belong to the package on Linux, in the order of their names, without comments.
func parse(fset *token.FileSet, dir string) ([]*ast.File, error) {
	platform := build.Default
	platform.GOOS, platform.GOARCH, platform.CgoEnabled = "linux", "amd64", false
	pkg, err := platform.ImportDir(dir, 0)
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		file, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.FileExports(file)
		files = append(files, file)
	}
	return files, nil
}

var emptyLines = regexp.MustCompile(`\n\n+`)

// dumper prints declarations and keeps the first error.
type dumper struct {
	out  bytes.Buffer
	fset *token.FileSet
	err  error
}

func (p *dumper) values(values []*doc.Value) {
	for _, v := range values {
		if v.Decl.Tok == token.VAR {
			p.variables(v.Decl)
			continue
		}
		p.declaration(v.Decl)
	}
}

// variables prints names and types. What a variable starts as is no promise, the text of an error least of all.
func (p *dumper) variables(decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		v := spec.(*ast.ValueSpec)
		for _, name := range v.Names {
			if !name.IsExported() {
				continue
			}
			fmt.Fprintf(&p.out, "\nvar %s ", name.Name)
			if v.Type == nil {
				p.out.WriteString("= …")
			} else {
				p.print(v.Type)
			}
			p.out.WriteByte('\n')
		}
	}
}

func (p *dumper) funcs(funcs []*doc.Func) {
	for _, f := range funcs {
		p.declaration(f.Decl)
	}
}

func (p *dumper) declaration(decl ast.Decl) {
	p.out.WriteByte('\n')
	p.print(decl)
	p.out.WriteByte('\n')
}

func (p *dumper) print(node any) {
	// Not aligned: a longer name must not change the lines of its neighbours.
	config := printer.Config{Mode: printer.RawFormat | printer.TabIndent, Tabwidth: 8}
	var text bytes.Buffer
	if err := config.Fprint(&text, p.fset, node); err != nil && p.err == nil {
		p.err = err
	}
	// Where a comment stood, the printer leaves an empty line.
	p.out.Write(emptyLines.ReplaceAll(text.Bytes(), []byte("\n")))
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
