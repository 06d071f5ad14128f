package handlers

import (
	"cmp"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxBody is how much of an answer's body the error of a webhook holds, in bytes.
	maxBody = 500
	// maxShown is how much of it is looked at: a secret that stands across the end of maxBody must
	// be found as a whole.
	maxShown = 8 << 10
	// minSecret is the shortest text that counts as a secret: without one, "v=1" in a query would
	// take every 1 out of the answer.
	minSecret = 4
)

// shown is the beginning of an answer's body as an error may hold it.
func shown(begin []byte, secrets []string) string {
	text := strings.ToValidUTF8(string(begin), "\uFFFD")
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "…")
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' ' // line feeds, escapes of a terminal, marks that turn its direction
	}, text)
	text = strings.TrimSpace(text)
	if len(text) > maxBody {
		end := maxBody
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = strings.TrimSpace(text[:end])
	}
	return text
}

// secretsOf are the parts of a URL that an answer may repeat and an error must not: user and query,
// as they are written and as they are meant. The longest come first, since one may be a part of
// another.
func secretsOf(u *url.URL) (secrets []string) {
	add := func(text string) {
		inJSON := strings.ReplaceAll(text, "/", `\/`) // as some write it
		for _, form := range []string{text, inJSON} {
			if len(form) >= minSecret && !slices.Contains(secrets, form) {
				secrets = append(secrets, form)
			}
		}
	}
	password, _ := u.User.Password()
	add(password)
	add(u.User.Username())
	add(u.User.String())
	if u.User != nil { // the header Authorization
		add(base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password)))
	}
	add(u.RawQuery)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, value, named := strings.Cut(pair, "=")
		if !named {
			value = name // a token may be all that there is
		}
		add(value)
		if plain, err := url.QueryUnescape(value); err == nil {
			add(plain)
		}
	}
	slices.SortStableFunc(secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return secrets
}
