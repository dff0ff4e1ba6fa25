package intake_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rooms lists which parts of the project a folder may import, tests apart. A
// folder that isn't named here has the rule of the one that it is in.
var rooms = map[string]struct {
	may []string
	why string
}{
	".":               {nil, "the contract's words depend on nothing but themselves"},
	"internal/decode": {[]string{"intake"}, "it decodes the contract's words and knows nobody who asks"},
	"dedupe": {[]string{"intake", "intake/internal/decode"},
		"what it needs of the data store is an interface of its own"},
	"internal/failpoint": {nil, "it marks steps and knows nothing of what they are"},
	"internal/client": {[]string{"intake"},
		"it is a partner's client: it knows the contract's words and nothing of how they are served"},
	"internal/scrape": {nil, "it knows nothing of what the metrics mean"},
	"internal/plot":   {nil, "it draws axes and knows nothing of what is measured"},
	"internal/safety": {nil, "it names what is unsafe and knows nothing of servers"},
	"worker": {[]string{"intake", "intake/worker/queue", "intake/internal/failpoint",
		"intake/internal/fair", "intake/internal/safety", "intake/internal/sleep"},
		"what it needs of the data store and of the seen set are interfaces of its own"},
	"worker/queue": {[]string{"intake", "intake/internal/failpoint", "intake/internal/fair",
		"intake/internal/safety", "intake/internal/sleep"},
		"it carries batches, and knows nothing of how they are judged or saved"},
	"internal/fair":  {nil, "it knows nothing of what it queues"},
	"internal/sleep": {nil, "it knows nothing of what is waited for"},
	"sink": {[]string{"intake", "intake/internal/failpoint", "intake/internal/safety"},
		"the data store knows neither the queue nor the seen set"},
	"internal/local": {[]string{"intake/internal/local"},
		"it starts servers and knows nothing of what they are for"},
	"cmd/bench": {[]string{"intake/internal/scrape", "intake", "intake/sink", "intake/internal/decode",
		"intake/internal/local"}, "it measures the data store by itself, and Intake from outside"},
	"cmd/prove": {[]string{"intake/internal/scrape", "intake/internal/sleep", "intake", "intake/dedupe",
		"intake/worker/queue",
		"intake/sink", "intake/internal/decode", "intake/internal/failpoint", "intake/internal/local",
		"intake/internal/client", "intake/internal/plot"}, "it is a client of the product, and looks into its servers"},
	"cmd/intake": {[]string{"intake/internal/sleep", "intake", "intake/dedupe", "intake/worker",
		"intake/sink", "intake/internal/local", "intake/cmd/intake", "intake/internal/failpoint",
		"intake/internal/safety", "intake/internal/client", "intake/internal/plot"}, "the wiring knows all parts"},
	"cmd/intake/internal/auth": {[]string{"intake", "intake/sink", "intake/cmd/intake/internal/origin",
		"intake/cmd/intake/internal/problem", "intake/cmd/intake/internal/auth", "intake/internal/safety"},
		"who a partner is has nothing to do with what it sends"},
	"cmd/intake/internal/problem": {[]string{"intake/internal/decode", "intake/cmd/intake/internal/limit"},
		"it names refusals, and knows nothing of who refuses"},
	"cmd/intake/internal/front": {[]string{"intake", "intake/dedupe", "intake/worker/queue", "intake/sink",
		"intake/internal/decode", "intake/internal/failpoint", "intake/cmd/intake/internal"},
		"the front saves nothing"},
}

// servers are the clients of servers, which the root package must not know.
var servers = []string{"github.com/jackc/pgx", "github.com/redis/", "github.com/nats-io/", "net/http", "database/sql"}

func TestRooms(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" ||
			entry.Name() == "bin"):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		files++
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			checkImport(t, filepath.ToSlash(file), imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Fatalf("looked at %d files only", files)
	}
}

func checkImport(t *testing.T, file, imported string) {
	t.Helper()
	room := path.Dir(file)
	if room == "." && slices.ContainsFunc(servers, func(s string) bool { return strings.HasPrefix(imported, s) }) {
		t.Errorf("%s imports %s: the root package knows no server", file, imported)
	}
	if imported != "intake" && !strings.HasPrefix(imported, "intake/") {
		return
	}
	for rooms[room].why == "" {
		if room == "." {
			t.Fatalf("%s: no rule for its folder", file)
		}
		room = path.Dir(room)
	}
	allowed := func(may string) bool {
		return imported == may || may != "intake" && strings.HasPrefix(imported, may+"/")
	}
	if !slices.ContainsFunc(rooms[room].may, allowed) {
		t.Errorf("%s imports %s: %s", file, imported, rooms[room].why)
	}
}
