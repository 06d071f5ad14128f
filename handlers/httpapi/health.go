package httpapi

import (
	"net/http"

	"github.com/rishi-platform/millrace/pipeline"
)

// health reports in full: without credentials everybody is an administrator.
func (a *api) health(w http.ResponseWriter, r *http.Request) {
	h := a.bus.Health(r.Context())
	status := http.StatusOK
	if h.Status == pipeline.StatusUnhealthy {
		status = http.StatusServiceUnavailable
	}
	a.write(w, status, typeJSON, h)
}

// alive is the answer of livez and readyz.
type alive struct {
	Status string `json:"status"`
}

// livez is slow to fail: as long as it answers, a restart would heal nothing.
func (a *api) livez(w http.ResponseWriter, _ *http.Request) {
	a.write(w, http.StatusOK, typeJSON, alive{"alive"})
}

// readyz is fast to fail: it is ready while publishing works.
func (a *api) readyz(w http.ResponseWriter, r *http.Request) {
	if err := a.bus.Ready(); err != nil {
		a.problem(w, a.problemOf(r, err, nil)) // there are no arguments that could be wrong
		return
	}
	a.write(w, http.StatusOK, typeJSON, alive{"ready"})
}
