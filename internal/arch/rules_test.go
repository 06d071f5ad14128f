package arch

// module is ours; paths in the tables are relative to it.
const module = "github.com/rishi-platform/millrace"

// house is the table of who may import whom. Arrows point down: a row names only rows above it. A row ending in /... is a
// folder with all that is below it. A package without a row may not exist.
//
// Files of tests may import what their package may, what testSupport names, and what stands under tests.
var house = []row{
	// Leaves: they know bytes and entries, not events.
	{pkg: "internal/redisstream", imports: ""},
	{pkg: "internal/spool", imports: ""},
	{pkg: "internal/redistest", imports: ""},
	{pkg: "internal/otlpsink", imports: ""},
	{pkg: "internal/arch", imports: ""},
	{pkg: "internal/terminal", imports: ""}, // what people see
	{pkg: "internal/units", imports: ""},    // and what they write
	{pkg: "internal/loop", imports: ""},
	{pkg: "internal/pattern", imports: ""},
	{pkg: "internal/memstream", imports: "internal/redisstream"},
	{pkg: "internal/wire", imports: "internal/redisstream"},
	{pkg: "internal/group", imports: "internal/loop internal/pattern internal/redisstream internal/wire", tests: "internal/memstream"},
	// What knows the server but not the bus.
	{pkg: "migrations", imports: "internal/redisstream", tests: "pipeline"},
	{pkg: "internal/doctor", imports: "internal/redisstream", tests: "pipeline"},
	// The bus and what stands on it.
	{pkg: "pipeline", imports: "internal/group internal/loop internal/memstream internal/pattern internal/redisstream internal/spool internal/units internal/wire"},
	{pkg: "telemetry", imports: "pipeline", tests: "router"},
	{pkg: "telemetry/otelsdk", imports: "pipeline telemetry"},
	{pkg: "router", imports: "pipeline"},
	{pkg: "handlers", imports: "router pipeline internal/terminal"},
	{pkg: "handlers/httpapi", imports: "pipeline internal/units"},
	// Watermill's own suite and module against ours: tests only, in a process of their own.
	{pkg: "internal/watermilltest", imports: "", tests: "pipeline router internal/redisstream"},
	// Drivers of the whole: load, and trouble.
	{pkg: "internal/loadgen", imports: "pipeline router"},
	{pkg: "internal/chaos/...", imports: "pipeline router handlers internal/loadgen"},
	// Programs. Nobody imports these.
	{pkg: "cmd/...", imports: "pipeline router handlers handlers/httpapi telemetry telemetry/otelsdk migrations " +
		"internal/doctor internal/loadgen internal/terminal internal/units cmd/..."},
	{pkg: "examples/...", imports: "pipeline router handlers handlers/httpapi telemetry migrations"},
}

// testSupport is for tests of every package, and for nothing else.
const testSupport = "internal/redistest internal/otlpsink"

// guests is the table of which modules of others are used where. The longest prefix counts. Tests may import any of them;
// a module that is not listed may be imported anywhere, and has its reason in docs/adr.
var guests = []guest{
	{prefix: "github.com/redis/go-redis", users: "internal/redisstream pipeline internal/redistest cmd/..."}, // cmd: where the server is, no command
	{prefix: "github.com/ThreeDotsLabs/watermill", users: "pipeline router handlers cmd/... examples/..."},
	{prefix: "github.com/ThreeDotsLabs/watermill-redisstream", users: ""}, // A peer in tests; its loops are not ours.
	{prefix: "github.com/danielgtaylor/huma", users: "handlers/httpapi"},
	{prefix: "github.com/spf13", users: "cmd/..."},
	{prefix: "go.opentelemetry.io/otel", users: "telemetry telemetry/otelsdk cmd/..."},
	{prefix: "go.opentelemetry.io/contrib", users: "telemetry/otelsdk cmd/..."},
	{prefix: "go.opentelemetry.io/otel/sdk", users: "telemetry/otelsdk"}, // A library leaves the SDK to its program.
	{prefix: "go.opentelemetry.io/otel/exporters", users: "telemetry/otelsdk"},
	{prefix: "go.opentelemetry.io/proto", users: "internal/otlpsink"},
	{prefix: "github.com/mattn/go-runewidth", users: "internal/terminal"},
	{prefix: "golang.org/x/term", users: "internal/terminal cmd/..."},
	{prefix: "github.com/dustin/go-humanize", users: "internal/units"},
	{prefix: "github.com/xhit/go-str2duration", users: "internal/units"},
	{prefix: "go.uber.org/goleak", users: "internal/redistest"},
	{prefix: "github.com/google/go-cmp", users: ""},
	{prefix: "pgregory.net/rapid", users: ""},
}

// topLevel is everything that may stand at the top of the repository, beside names that begin with a dot and what
// .gitignore names.
var topLevel = "go.mod go.sum pipeline handlers router cmd telemetry migrations docker-compose.yml Makefile README.md " +
	"internal bench examples docs Dockerfile LICENSE CHANGELOG.md"
