package dbtest

import (
	"fmt"
	"net/url"
)

// address is a server, named by the URL of any database on it.
type address struct{ url url.URL }

func parseAddress(text string) (address, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		// The text may hold a password: it is not repeated.
		return address{}, fmt.Errorf("dbtest: TEST_DATABASE_URL must have the form postgres://user:password@host:port/database")
	}
	return address{url: *u}, nil
}

// admin is the URL of the database from which others are made.
func (a address) admin() string { return a.url.String() }

// database is the URL of another database on the same server.
func (a address) database(name string) string {
	u := a.url
	u.Path = "/" + name
	return u.String()
}
