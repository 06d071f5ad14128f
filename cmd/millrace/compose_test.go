package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// The tests here hold Dockerfile and docker-compose.yml against the binary: every verb, flag, variable, port and volume they
// name has to be one that the binary knows. Nobody reads these files as carefully as a container engine does, and none runs
// where the tests do.

type composeFile struct {
	Services map[string]*composeService
	Volumes  map[string]any
}

type composeService struct {
	Image       string
	Build       string
	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
	HealthCheck struct{ Test []string }
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
}

// imageFile is the last stage of the Dockerfile: its instructions, in order.
type imageFile []imageInstruction

type imageInstruction struct{ name, args string }

const uid = "65532:65532"

func TestImageIsTheBinaryAlone(t *testing.T) {
	t.Parallel()
	image := readImage(t)
	if got := image.of(t, "FROM"); got != "scratch" {
		t.Errorf("last stage FROM %s, want scratch", got)
	}
	if got := image.of(t, "USER"); got != uid {
		t.Errorf("USER %s, want %s", got, uid)
	}
	if got := arguments(t, image.of(t, "ENTRYPOINT")); !slices.Equal(got, []string{"/millrace"}) {
		t.Errorf("ENTRYPOINT %q, want /millrace", got)
	}
	copied := image.all("COPY")
	for _, want := range []string{" /millrace", " /etc/ssl/certs/ca-certificates.crt", " " + image.of(t, "VOLUME")} {
		if !slices.ContainsFunc(copied, func(args string) bool { return strings.HasSuffix(args, want) }) {
			t.Errorf("nothing is copied to%s: %q", want, copied)
		}
	}
}

func TestImageDataFolder(t *testing.T) {
	t.Parallel()
	image := readImage(t)
	name, folder, _ := strings.Cut(image.of(t, "ENV"), "=")
	checkVariable(t, "Dockerfile", name)
	if name != "MILLRACE_DATA_DIR" || folder != image.of(t, "VOLUME") {
		t.Errorf("ENV %s=%s and VOLUME %s, want MILLRACE_DATA_DIR and the same folder", name, folder, image.of(t, "VOLUME"))
	}
	owned := slices.ContainsFunc(image.all("COPY"), func(args string) bool {
		return strings.Contains(args, "--chown="+uid+" ") && strings.HasSuffix(args, " "+folder)
	})
	if !owned {
		t.Errorf("%s is not made the user's own: the process could not write there", folder)
	}
}

func TestImageHealthCheck(t *testing.T) {
	t.Parallel()
	check := strings.TrimPrefix(readImage(t).of(t, "HEALTHCHECK"), "CMD ")
	args := arguments(t, check)
	flags := parseCommand(t, "Dockerfile", args[1:])
	wantServer(t, "Dockerfile", flags, portOf(t, defaultOf(t, "MILLRACE_ADDR")))
}

func TestComposeCommands(t *testing.T) {
	t.Parallel()
	for name, service := range ours(t) {
		parseCommand(t, name, service.Command)
	}
}

func TestComposeRunsWhatItPromises(t *testing.T) {
	t.Parallel()
	verbs := map[string]int{}
	for name, service := range ours(t) {
		verbs[service.Command[0]]++
		flags := parseCommand(t, name, service.Command)
		switch service.Command[0] {
		case "serve":
			wantFlag(t, name, flags, "allow-anonymous", "true")
		case "work":
			wantFlag(t, name, flags, "print", "true")
		}
	}
	if verbs["serve"] != 2 || verbs["work"] != 2 || len(verbs) != 2 {
		t.Errorf("verbs %v, want two servers and two workers", verbs)
	}
}

func TestComposeEnvironment(t *testing.T) {
	t.Parallel()
	services := readCompose(t).Services
	for name, service := range ours(t) {
		for variable := range service.Environment {
			checkVariable(t, name, variable)
		}
		address, err := url.Parse(service.Environment["REDIS_URL"])
		if err != nil || address.Scheme != "redis" || address.Port() != "6379" {
			t.Errorf("%s: REDIS_URL %q, want redis://SERVICE:6379 (%v)", name, service.Environment["REDIS_URL"], err)
			continue
		}
		if services[address.Hostname()] == nil {
			t.Errorf("%s: REDIS_URL names %q, which is no service", name, address.Hostname())
		}
		if service.Command[0] == "serve" && service.Environment["ENABLE_REDIS_EVENTS"] != "true" {
			t.Errorf("%s: without ENABLE_REDIS_EVENTS a server ignores REDIS_URL", name)
		}
	}
}

func TestComposePorts(t *testing.T) {
	t.Parallel()
	published := map[string]string{}
	for name, service := range readCompose(t).Services {
		for _, mapping := range service.Ports {
			parts := strings.Split(mapping, ":")
			if len(parts) != 3 || parts[0] != "127.0.0.1" {
				t.Errorf("%s: port %s is not published on 127.0.0.1 only", name, mapping)
				continue
			}
			if other := published[parts[1]]; other != "" {
				t.Errorf("%s and %s are both published on port %s", name, other, parts[1])
			}
			published[parts[1]] = name
			listen := parseCommand(t, name, service.Command).Lookup("addr").Value.String()
			if host, port, _ := net.SplitHostPort(listen); port != parts[2] || host != "0.0.0.0" {
				t.Errorf("%s: port %s leads to %s, but it listens on %s", name, mapping, parts[2], listen)
			}
		}
	}
	if len(published) != 2 {
		t.Errorf("published ports %v, want one for each of two servers", published)
	}
}

func TestComposeVolumes(t *testing.T) {
	t.Parallel()
	file, users := readCompose(t), map[string]string{}
	for name, service := range file.Services {
		for _, mount := range service.Volumes {
			volume, target, _ := strings.Cut(mount, ":")
			if _, declared := file.Volumes[volume]; !declared {
				t.Errorf("%s: volume %s is not declared", name, volume)
			}
			if other := users[volume]; other != "" {
				t.Errorf("%s and %s share the volume %s: its owner is one process", name, other, volume)
			}
			users[volume] = name
			if want := readImage(t).of(t, "VOLUME"); target != want { // Redis keeps its data in a folder of the same name.
				t.Errorf("%s: %s is mounted at %s, want %s", name, volume, target, want)
			}
		}
	}
	for volume := range file.Volumes {
		if users[volume] == "" {
			t.Errorf("volume %s is declared and not used", volume)
		}
	}
	for name := range ours(t) {
		if len(file.Services[name].Volumes) != 1 {
			t.Errorf("%s: volumes %v, want one for its data", name, file.Services[name].Volumes)
		}
	}
}

func TestComposeHealthChecks(t *testing.T) {
	t.Parallel()
	for name, service := range ours(t) {
		check := service.HealthCheck.Test
		if len(check) < 3 || check[0] != "CMD" || check[1] != "/millrace" {
			t.Errorf("%s: health check %q, want CMD /millrace …: the image has no shell", name, check)
			continue
		}
		flags := parseCommand(t, name, check[2:])
		if service.Command[0] == "serve" {
			wantServer(t, name, flags, portOf(t, parseCommand(t, name, service.Command).Lookup("addr").Value.String()))
		}
	}
	for name, service := range readCompose(t).Services {
		if len(service.HealthCheck.Test) == 0 {
			t.Errorf("%s has no health check", name)
		}
		for dependency, d := range service.DependsOn {
			if readCompose(t).Services[dependency] == nil || d.Condition != "service_healthy" {
				t.Errorf("%s depends on %s with condition %q, want a service, healthy", name, dependency, d.Condition)
			}
		}
	}
	for name, service := range ours(t) {
		if _, waits := service.DependsOn["redis"]; !waits {
			t.Errorf("%s does not wait for redis", name)
		}
	}
}

func TestComposeRedisKeepsEvents(t *testing.T) {
	t.Parallel()
	redis := readCompose(t).Services["redis"]
	if !strings.HasPrefix(redis.Image, "redis:7") {
		t.Errorf("image %s, want redis:7", redis.Image)
	}
	command := strings.Join(redis.Command, " ")
	for _, want := range []string{"--appendonly yes", "--maxmemory-policy noeviction"} {
		if !strings.Contains(command, want) {
			t.Errorf("redis is started without %s: %s", want, command)
		}
	}
}

// TestEnvironmentTable holds the list of variables against the flags: each row that names a flag names one that exists.
func TestEnvironmentTable(t *testing.T) {
	t.Parallel()
	flags := map[string]bool{}
	everyCommand(newRootCommand(), func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) { flags[f.Name] = true })
		c.PersistentFlags().VisitAll(func(f *pflag.Flag) { flags[f.Name] = true })
	})
	seen := map[string]bool{}
	for _, variable := range environment {
		if seen[variable.Name] {
			t.Errorf("%s stands twice in the table", variable.Name)
		}
		seen[variable.Name] = true
		if variable.Meaning == "" {
			t.Errorf("%s has no meaning", variable.Name)
		}
		if flag := strings.TrimPrefix(variable.Flag, "--"); flag != "" && !flags[flag] {
			t.Errorf("%s names the flag %s, which no verb has", variable.Name, variable.Flag)
		}
	}
}

// checkVariable fails the test when the binary does not read a variable. Those of OpenTelemetry are known by their prefix.
func checkVariable(t *testing.T, where, name string) {
	t.Helper()
	known := slices.ContainsFunc(environment, func(v envVar) bool { return v.Name == name })
	if !known && !strings.HasPrefix(name, "OTEL_") {
		t.Errorf("%s: the binary does not read %s", where, name)
	}
}

// parseCommand finds the verb, parses its flags and checks its arguments, as the binary would before it does anything.
func parseCommand(t *testing.T, where string, args []string) *pflag.FlagSet {
	t.Helper()
	command, rest, err := newRootCommand().Find(args)
	if err != nil {
		t.Fatalf("%s: %q: %v", where, args, err)
	}
	if !command.Runnable() || !command.HasParent() {
		t.Fatalf("%s: %q is no verb", where, args)
	}
	if err := command.ParseFlags(rest); err != nil {
		t.Fatalf("%s: %q: %v", where, args, err)
	}
	if err := command.ValidateArgs(command.Flags().Args()); err != nil {
		t.Fatalf("%s: %q: %v", where, args, err)
	}
	return command.Flags()
}

func wantFlag(t *testing.T, where string, flags *pflag.FlagSet, name, want string) {
	t.Helper()
	flag := flags.Lookup(name)
	if flag == nil {
		t.Errorf("%s: no flag --%s", where, name)
		return
	}
	if got := flag.Value.String(); got != want {
		t.Errorf("%s: --%s is %q, want %q", where, name, got, want)
	}
}

// wantServer wants --server to name this port of the same container.
func wantServer(t *testing.T, where string, flags *pflag.FlagSet, port string) {
	t.Helper()
	wantFlag(t, where, flags, "server", fmt.Sprintf("http://127.0.0.1:%s", port))
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatalf("address %q: %v", addr, err)
	}
	return port
}

// defaultOf returns what a variable is when it is not set.
func defaultOf(t *testing.T, name string) string {
	t.Helper()
	for _, variable := range environment {
		if variable.Name == name {
			return variable.Default
		}
	}
	t.Fatalf("no variable %s", name)
	return ""
}

func everyCommand(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, child := range c.Commands() {
		everyCommand(child, visit)
	}
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file composeFile
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// ours returns the services that run this binary.
func ours(t *testing.T) map[string]*composeService {
	t.Helper()
	found := map[string]*composeService{}
	for name, service := range readCompose(t).Services {
		if service.Build == "" {
			continue
		}
		if len(service.Command) == 0 {
			t.Fatalf("%s has no command", name)
		}
		found[name] = service
	}
	return found
}

func readImage(t *testing.T) imageFile {
	t.Helper()
	file, err := os.Open(filepath.Join("..", "..", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stage imageFile
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, args, found := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if !found || strings.HasPrefix(name, "#") {
			continue
		}
		if name == "FROM" {
			stage = nil
		}
		stage = append(stage, imageInstruction{name, strings.TrimSpace(args)})
	}
	return stage
}

func (f imageFile) all(name string) []string {
	var found []string
	for _, i := range f {
		if i.name == name {
			found = append(found, i.args)
		}
	}
	return found
}

// of returns the arguments of the one instruction of that name.
func (f imageFile) of(t *testing.T, name string) string {
	t.Helper()
	found := f.all(name)
	if len(found) != 1 {
		t.Fatalf("%d instructions %s in the last stage, want one", len(found), name)
	}
	return found[0]
}

// arguments reads the JSON form, the only one that works without a shell.
func arguments(t *testing.T, text string) []string {
	t.Helper()
	var args []string
	if err := json.Unmarshal([]byte(text), &args); err != nil || len(args) == 0 {
		t.Fatalf("%s: want a JSON list: %v", text, err)
	}
	return args
}
