package arch

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// row says what a package may import of ours. Lists are separated by blanks.
type row struct{ pkg, imports, tests string }

// guest says which packages may import a module of others.
type guest struct{ prefix, users string }

// edge is one import: the file (relative to the top, with slashes) and what it imports.
type edge struct{ file, path string }

func TestImportsFollowTheArrows(t *testing.T) {
	t.Parallel()
	edges, err := imports(os.DirFS(root(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(edges) == 0 {
		t.Fatal("no imports found: the test looks in the wrong place")
	}
	for _, fault := range check(edges) {
		t.Error(fault)
	}
}

func TestTopLevelNames(t *testing.T) {
	t.Parallel()
	top := os.DirFS(root(t))
	entries, err := fs.ReadDir(top, ".")
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := fs.ReadFile(top, ".gitignore")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	for _, name := range strangers(names, string(ignored)) {
		t.Errorf("%s stands at the top of the repository, where only these belong: %s", name, topLevel)
	}
}

// TestCheckFindsForbiddenImports is the proof that the tests above can fail.
func TestCheckFindsForbiddenImports(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		file, imports string
		want          bool // allowed
	}{
		{"pipeline/bus.go", "internal/redisstream", true},
		{"pipeline/bus.go", "router", false},
		{"pipeline/bus_test.go", "router", false},
		{"pipeline/bus.go", "handlers", false},
		{"pipeline/bus.go", "telemetry", false},
		{"pipeline/bus.go", "migrations", false},
		{"pipeline/bus_test.go", "internal/redistest", true},
		{"pipeline/bus_test.go", "pipeline", true},
		{"pipeline/bus.go", "internal/redistest", false},
		{"cmd/millrace/serve.go", "internal/redistest", false},
		{"telemetry/otelsdk/setup.go", "internal/otlpsink", false},
		{"telemetry/otelsdk/setup_test.go", "internal/otlpsink", true},
		{"internal/redisstream/client.go", "pipeline", false},
		{"internal/spool/spool.go", "internal/redisstream", false},
		{"internal/spool/spool_test.go", "internal/redistest", true},
		{"router/router.go", "pipeline", true},
		{"router/router.go", "internal/redisstream", false},
		{"handlers/once.go", "router", true},
		{"handlers/once.go", "handlers/httpapi", false},
		{"handlers/httpapi/api.go", "pipeline", true},
		{"handlers/httpapi/api.go", "router", false},
		{"handlers/httpapi/api.go", "migrations", false},
		{"telemetry/hooks.go", "router", false},
		{"telemetry/hooks_test.go", "router", true},
		{"telemetry/hooks.go", "telemetry/otelsdk", false},
		{"router/router.go", "telemetry/otelsdk", false},
		{"examples/hello/main.go", "telemetry/otelsdk", false},
		{"cmd/millrace/main.go", "telemetry/otelsdk", true},
		{"cmd/millrace/main.go", "cmd/millrace/inner", true},
		{"handlers/once.go", "cmd/millrace", false},
		{"helpers/helpers.go", "pipeline", false}, // a package that nobody planned
		{"main.go", "pipeline", false},
		{"pipeline/bus.go", "unknown", false},

		{"pipeline/bus.go", "github.com/redis/go-redis/v9", true},
		{"router/router.go", "github.com/redis/go-redis/v9", false},
		{"handlers/httpapi/api.go", "github.com/redis/go-redis/v9", false},
		{"cmd/millrace/main.go", "github.com/redis/go-redis/v9", true},
		{"router/router_test.go", "github.com/redis/go-redis/v9", true},
		{"cmd/millrace/main.go", "github.com/spf13/cobra", true},
		{"pipeline/bus.go", "github.com/spf13/cobra", false},
		{"telemetry/hooks.go", "go.opentelemetry.io/otel/trace", true},
		{"telemetry/hooks.go", "go.opentelemetry.io/otel/sdk/trace", false},
		{"telemetry/hooks_test.go", "go.opentelemetry.io/otel/sdk/trace/tracetest", true},
		{"telemetry/otelsdk/sdk.go", "go.opentelemetry.io/otel/sdk/trace", true},
		{"cmd/millrace/main.go", "go.opentelemetry.io/otel/exporters/otlp/otlptrace", false},
		{"pipeline/bus.go", "go.opentelemetry.io/otel/trace", false},
		{"pipeline/bus.go", "github.com/ThreeDotsLabs/watermill/message", true},
		{"pipeline/bus.go", "github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream", false},
		{"pipeline/interop_test.go", "github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream", true},
		{"internal/redisstream/client.go", "github.com/ThreeDotsLabs/watermill/message", false},
		{"pipeline/bus.go", "github.com/google/uuid", true},
		{"pipeline/bus.go", "log/slog", true},
	} {
		e := edge{test.file, test.imports}
		if !strings.Contains(e.path, ".") && e.path != "log/slog" {
			e.path = module + "/" + e.path
		}
		faults := check([]edge{e})
		if got := len(faults) == 0; got != test.want {
			t.Errorf("%s imports %s: allowed %v, want %v %v", test.file, test.imports, got, test.want, faults)
		}
	}
}

func TestStrangersAreFound(t *testing.T) {
	t.Parallel()
	got := strangers([]string{".ci", "pipeline", "util", "bin", "main.go"}, "# build\n/bin/\n*.out\n")
	if want := []string{"util", "main.go"}; !slices.Equal(got, want) {
		t.Errorf("strangers %v, want %v", got, want)
	}
}

// TestHousePointsDown keeps the table itself free of cycles: a row may name only rows above it, and itself.
func TestHousePointsDown(t *testing.T) {
	t.Parallel()
	var above []string
	for _, r := range house {
		above = append(above, r.pkg)
		for _, name := range strings.Fields(r.imports) {
			if !slices.Contains(above, name) {
				t.Errorf("row %s names %s, which does not stand above it", r.pkg, name)
			}
		}
	}
}

// check returns a sentence for every import that the tables do not allow.
func check(edges []edge) []string {
	var faults []string
	for _, e := range edges {
		if fault := fault(e); fault != "" && !slices.Contains(faults, fault) {
			faults = append(faults, fault)
		}
	}
	return faults
}

func fault(e edge) string {
	pkg, test := path.Dir(e.file), strings.HasSuffix(e.file, "_test.go")
	r, known := rowOf(pkg)
	if !known {
		return fmt.Sprintf("package %s has no row in the table of internal/arch", pkg)
	}
	if ours, found := strings.CutPrefix(e.path, module+"/"); found {
		return faultOfOurs(e, r, pkg, ours, test)
	}
	return faultOfGuest(e, pkg, test)
}

func faultOfOurs(e edge, r row, pkg, imported string, test bool) string {
	if matches(r.imports, imported) {
		return ""
	}
	if test && (imported == pkg || matches(testSupport, imported) || matches(r.tests, imported)) {
		return ""
	}
	return fmt.Sprintf("%s imports %s; of ours, %s may import only: %s", e.file, imported, pkg, orNothing(r.imports))
}

func faultOfGuest(e edge, pkg string, test bool) string {
	if test {
		return ""
	}
	g, restricted := guestOf(e.path)
	if !restricted || matches(g.users, pkg) {
		return ""
	}
	return fmt.Sprintf("%s imports %s; beside tests, only these may: %s", e.file, e.path, orNothing(g.users))
}

func rowOf(pkg string) (row, bool) {
	for _, r := range house {
		if matches(r.pkg, pkg) {
			return r, true
		}
	}
	return row{}, false
}

// guestOf returns the longest prefix that path has, counted in whole path segments.
func guestOf(imported string) (guest, bool) {
	var best guest
	for _, g := range guests {
		if below(imported, g.prefix) && len(g.prefix) > len(best.prefix) {
			best = g
		}
	}
	return best, best.prefix != ""
}

// matches reports whether a list of packages names pkg, by itself or by a folder above it.
func matches(list, pkg string) bool {
	return slices.ContainsFunc(strings.Fields(list), func(name string) bool {
		if folder, found := strings.CutSuffix(name, "/..."); found {
			return below(pkg, folder)
		}
		return name == pkg
	})
}

func below(pkg, folder string) bool { return pkg == folder || strings.HasPrefix(pkg, folder+"/") }

func orNothing(list string) string {
	if list == "" {
		return "nothing"
	}
	return list
}

// strangers returns the names that do not belong to the top of the repository.
func strangers(names []string, gitignore string) []string {
	var found []string
	for _, name := range names {
		known := strings.HasPrefix(name, ".") || slices.Contains(strings.Fields(topLevel), name)
		if !known && !slices.Contains(strings.Fields(gitignore), "/"+name+"/") {
			found = append(found, name)
		}
	}
	return found
}

// imports reads the imports of every Go file of this module.
func imports(top fs.FS) ([]edge, error) {
	var edges []edge
	err := fs.WalkDir(top, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skip(top, name)
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		found, err := importsOf(top, name)
		edges = append(edges, found...)
		return err
	})
	return edges, err
}

// skip leaves out what the go command leaves out as well: hidden folders, testdata, and modules inside this one.
func skip(top fs.FS, folder string) error {
	if folder == "." {
		return nil
	}
	base := path.Base(folder)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return fs.SkipDir
	}
	if _, err := fs.Stat(top, path.Join(folder, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func importsOf(top fs.FS, name string) ([]edge, error) {
	source, err := fs.ReadFile(top, name)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	edges := make([]edge, 0, len(file.Imports))
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		edges = append(edges, edge{name, imported})
	}
	return edges, nil
}

// root returns the folder of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}
