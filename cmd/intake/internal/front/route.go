package front

import (
	"net/http"
	"slices"
	"strings"

	"intake/cmd/intake/internal/problem"
	"intake/cmd/intake/internal/reference"
)

// Paths. Those that end in a slash are followed by an id.
const (
	createPath    = "/api/v1/clients"
	recordPath    = "/api/v1/clients/"
	reconcilePath = recordPath + "reconcile"
	statusPath    = recordPath + "status/"
)

// A route has the handlers of a path, by method. HEAD is answered as GET is.
type route map[string]problem.Handler

// routes are the routes of a front. Names in braces stand for ids, as in the document.
//
// They are not an http.ServeMux, because ids are partner_client_ids, which may be any
// text: a ServeMux redirects paths that have "..", "." or "//", and does not match an id
// that is a slash, escaped. Here ".." is an id like any other, and all else that isn't
// exactly a path of the table is 404. TestFront_OddPaths holds that.
type routes map[string]route

const (
	statusRoute  = statusPath + "{status_check_id}"
	recordRoute  = recordPath + "{partner_client_id}"
	problemRoute = problem.Path + "{code}"
)

func (f *Front) makeRoutes() routes {
	get := func(h problem.Handler) route { return route{http.MethodGet: h} }
	post := func(h problem.Handler) route { return route{http.MethodPost: h} }
	r := routes{
		createPath:    post(f.create),
		statusRoute:   get(f.status),
		recordRoute:   get(f.record),
		reconcilePath: {http.MethodGet: f.record, http.MethodPost: f.reconcile},
		problemRoute:  get(problem.Describe),
	}
	if a := f.opts.Auth; a.HasBuiltinIssuer() {
		r["/oauth/token"] = post(a.IssueToken)
		r["/.well-known/jwks.json"] = get(a.ServeKeys)
		r["/.well-known/oauth-authorization-server"] = get(a.ServeMetadata)
	}
	issuer := reference.Issuer{TokenURL: f.opts.Auth.ExternalTokenURL, Only: !f.opts.Auth.HasBuiltinIssuer()}
	for path, serve := range reference.Handlers(issuer) {
		r[path] = get(neverRefuses(serve))
	}
	if f.opts.Live != nil {
		r["/livez"] = get(neverRefuses(f.opts.Live))
	}
	if f.opts.Ready != nil {
		r["/readyz"] = get(neverRefuses(f.opts.Ready))
	}
	return r
}

func neverRefuses(h http.HandlerFunc) problem.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		h(w, r)
		return nil
	}
}

// find returns the handler of a request, or the problem that there is none.
func (r routes) find(request *http.Request) (problem.Handler, error) {
	found := r[r.pathOf(request)]
	if found == nil {
		return nil, problem.New(problem.NoPath, "there is nothing at this path")
	}
	method := request.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if handler := found[method]; handler != nil {
		return handler, nil
	}
	var allowed []string
	for method := range found {
		allowed = append(allowed, method)
		if method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	slices.Sort(allowed)
	return nil, problem.New(problem.Method, "use %s", strings.Join(allowed, " or ")).
		With("Allow", strings.Join(allowed, ", "))
}

// pathOf returns the path of a request as routes have it. It looks at the escaped path,
// since an id may hold an escaped slash.
func (r routes) pathOf(request *http.Request) string {
	path := request.URL.EscapedPath()
	if strings.HasPrefix(path, statusPath) {
		return statusRoute
	}
	if strings.HasPrefix(path, problem.Path) {
		return problemRoute
	}
	id, ok := strings.CutPrefix(path, recordPath)
	if ok && path != reconcilePath && id != "" && !strings.Contains(id, "/") {
		return recordRoute
	}
	return request.URL.Path
}
