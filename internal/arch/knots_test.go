package arch

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// knots is how many files of a package may refer to each other in a circle, where that is more than elsewhere.
// A reader who wants to understand one of them has to understand them all.
var knots = map[string]int{
	"pipeline":             41,
	"internal/group":       28,
	"cmd/millrace":         20,
	"internal/redisstream": 17,
	"handlers/httpapi":     12,
}

// knotMost is how many may anywhere else.
const knotMost = 8

// TestFilesAreNoKnot computes, for each package, the largest set of files that refer to each other in a circle.
func TestFilesAreNoKnot(t *testing.T) {
	t.Parallel()
	packages, err := listPackages(root(t), "./...")
	if err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	for _, p := range packages {
		exports[p.path] = p.export
	}
	checked := 0
	for _, p := range packages {
		name, ours := strings.CutPrefix(p.path, module+"/")
		if !ours || len(p.files) < 2 {
			continue
		}
		checked++
		files, err := references(p, exports)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		knot := largestKnot(files)
		if most := cmp.Or(knots[name], knotMost); len(knot) > most {
			t.Errorf("%s: %d files refer to each other in a circle, at most %d may: %s", name, len(knot), most, strings.Join(knot, " "))
		} else if len(knot) < knots[name] {
			t.Errorf("%s: the largest knot has %d files by now: hold it there", name, len(knot))
		}
	}
	if checked == 0 {
		t.Fatal("no package was looked at")
	}
}

func TestLargestKnot(t *testing.T) {
	t.Parallel()
	files := map[string]map[string]bool{
		"a": {"b": true}, "b": {"c": true}, "c": {"a": true, "d": true}, "d": {"e": true}, "e": {"d": true}, "f": {"a": true},
	}
	if got := largestKnot(files); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("got %v", got)
	}
}

// listed is a package as the go command describes it.
type listed struct {
	path, dir, export string
	files             []string
}

// listPackages describes packages and what they import, with what the compiler knows of each.
func listPackages(dir string, patterns ...string) (packages []listed, err error) {
	args := []string{"list", "-export", "-deps", "-f", `{{.ImportPath}}{{"\t"}}{{.Dir}}{{"\t"}}{{.Export}}{{"\t"}}{{join .GoFiles " "}}`}
	cmd := exec.Command("go", append(args, patterns...)...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		packages = append(packages, listed{path: f[0], dir: f[1], export: f[2], files: strings.Fields(f[3])})
	}
	return packages, nil
}

// references says which files of a package each of them refers to.
func references(p listed, exports map[string]string) (map[string]map[string]bool, error) {
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.files {
		file, err := parser.ParseFile(fset, filepath.Join(p.dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup)}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	if _, err := conf.Check(p.path, fset, files, info); err != nil {
		return nil, err
	}
	base := func(pos token.Pos) string { return filepath.Base(fset.Position(pos).Filename) }
	to := map[string]map[string]bool{}
	for ident, object := range info.Uses {
		if object.Pkg() == nil || object.Pkg().Path() != p.path || !object.Pos().IsValid() {
			continue
		}
		from, at := base(ident.Pos()), base(object.Pos())
		if to[from] == nil {
			to[from] = map[string]bool{}
		}
		if from != at {
			to[from][at] = true
		}
	}
	return to, nil
}

// largestKnot returns the largest set of names each of which leads to all others, sorted.
func largestKnot(to map[string]map[string]bool) (largest []string) {
	reach := func(from string) map[string]bool {
		seen, todo := map[string]bool{}, []string{from}
		for len(todo) > 0 {
			at := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			for next := range to[at] {
				if !seen[next] {
					seen[next] = true
					todo = append(todo, next)
				}
			}
		}
		return seen
	}
	reached := map[string]map[string]bool{}
	for name := range to {
		reached[name] = reach(name)
	}
	for name := range to {
		var knot []string
		for other := range reached[name] {
			if reached[other][name] {
				knot = append(knot, other)
			}
		}
		slices.Sort(knot)
		if len(knot) > len(largest) || len(knot) == len(largest) && slices.Compare(knot, largest) < 0 {
			largest = knot
		}
	}
	return largest
}
