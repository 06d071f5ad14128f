package httpapi

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

// admit applies the rules for a server without credentials: everybody who reaches it is an administrator, so nobody else's web
// page may make a browser reach it. Liveness and readiness are for anybody.
func (a *api) admit(r *http.Request) *problem {
	if r.URL.Path == "/livez" || r.URL.Path == "/readyz" {
		return nil
	}
	if !a.cfg.AllowAnonymous && !isLoopback(r.Host) {
		return &problem{status: http.StatusForbidden, code: "foreign-origin", detail: "without credentials this server answers to a loopback host name only"}
	}
	if origin := r.Header.Get("Origin"); origin != "" && !sameOrigin(origin, r.Host) {
		return &problem{status: http.StatusForbidden, code: "foreign-origin", detail: "requests from web pages of another origin are refused"}
	}
	return nil
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// sameOrigin reports whether a page of this origin was served by us. The scheme is left out: a proxy in front may end TLS.
func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}
