package main

import (
	"sync"
	"testing"
)

// attack is one way in that others have found into gates like this, tried on the running program by raw sockets. Its name is the
// rule that must hold.
type attack struct {
	rule string
	try  func(*testing.T, *site)
}

// alone need the machine for themselves: they load it on purpose, compare how long answers take, or break the connections to the upstream
// that other requests would use next.
var alone = []attack{
	{"who has an account is not told by how long a login takes", enumerationByTime},
	{"a hundred logins at once are bounded in memory and keep nobody else out", hashingStorm},
	{"nothing a client writes makes a line of the log", logInjection},
}

var together = []attack{
	{"forged identity and forwarding headers are removed in every spelling", forgedHeaders},
	{"a Connection header cannot name ours away", connectionNamesOurs},
	{"trailers carry no identity", forgedTrailers},
	{"an upstream cannot set our cookies or speak as us", upstreamSpeaksAsGate},
	{"a client's headers and query do not choose the route", routeOverrides},
	{"an encoded path is refused or stays where it was routed", pathTricks},
	{"a path that only looks odd passes as one canonical path", oddPathsPass},
	{"one request stays one request", smuggling},
	{"no upgrade leads past the gate", upgradesPastTheGate},
	{"HTTP/2 is not turned into another request", http2Tricks},
	{"a body longer than its length reaches nobody", longerThanItsLength},
	{"no token but the gate's own is an identity", forgedTokens},
	{"a key and a cookie are never taken together", keyAndCookie},
	{"an expired key is refused while it is in use", expiredKeyInUse},
	{"a session from before the login is not the one after it", fixation},
	{"of several session cookies none is taken", cookieTossing},
	{"the session cookie is out of reach of scripts, subdomains and other sites", cookieAttributes},
	{"another site's page cannot write in a user's name", crossSite},
	{"next never leads to another site", openRedirect},
	{"who has an account is not told by any answer", enumerationByText},
	{"passwords are guessed a few times and no more, on all processes together", passwordGuessing},
	{"keys are guessed a few times and no more", keyGuessing},
	{"a reset link is good once, on one process", resetReplay},
	{"a reset link leads to the site, whatever the Host header says", resetHost},
	{"oversized headers are refused", oversizedHeaders},
	{"a header that drips is cut off", slowHeader},
	{"a body that drips is cut off", slowBody},
	{"idle connections are bounded and keep nobody else out", idleConnections},
	{"a session that ends takes its open streams along, on every process", streamsOfEndedSessions},
	{"a user that is disabled by command line loses streams, sessions and keys, on every process", disabledUser},
	{"a credential that ended unheard of takes its open streams along", unheardRevocation},
	{"the news of an ended session ends its streams without a search for it", newsOfRevocations},
	{"SIGHUP with a bad file keeps the routes, with a good one takes them", reload},
	{"SIGTERM drains: streams are told to come back, requests finish", drain},
	{"a replaced certificate is served, and a broken one is not", replacedCertificate},
}

// TestAttacks tries each attack on two gates that share a database. Afterwards all that ever reached the upstream is judged by
// the same rules, whichever attack it came from.
func TestAttacks(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	for _, a := range alone {
		t.Run(a.rule, func(t *testing.T) { a.try(t, s) })
	}
	t.Run("together", func(t *testing.T) {
		all := atOnce{T: t, slots: make(chan struct{}, 12)}
		defer all.Wait()
		for _, a := range together {
			all.run(a.rule, func(t *testing.T) { a.try(t, s) })
		}
	})
	t.Run("afterwards", func(t *testing.T) {
		t.Run("all that reached the upstream was framed once, bore no credential and had the right identity", s.judgeUpstream)
		t.Run("each line of the logs is the gate's own", s.judgeLogs)
		t.Run("the changed certificate is served without a signal", s.judgeCertificate)
		t.Run("both gates are still up and ready", s.judgeGates)
	})
}

// atOnce runs subtests beside one another. They wait far more than they work, and of tests that are marked parallel only as many
// may wait as there are processors.
type atOnce struct {
	*testing.T
	sync.WaitGroup
	slots chan struct{} // how many run beside one another; nil: all
}

func (a *atOnce) run(name string, try func(*testing.T)) {
	a.Go(func() {
		if a.slots != nil {
			a.slots <- struct{}{}
			defer func() { <-a.slots }()
		}
		a.T.Run(name, try)
	})
}

// each runs a case on both gates.
func (s *site) each(t *testing.T, try func(*testing.T, *process)) {
	t.Helper()
	both := atOnce{T: t}
	defer both.Wait()
	for _, p := range s.gates() {
		both.run(p.name, func(t *testing.T) { try(t, p) })
	}
}
