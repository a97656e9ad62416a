// Package providertest holds the rules that every gateway, carrier and warehouse must keep, as tests. An adapter's own test calls
// [Gateway], [Carrier] or [Warehouse] with a fixture: the adapter, how to provoke what a rule is about, and a look at what the
// provider really did, which is what counts, rather than what it answered.
//
// It imports the root package and testing; only tests import it. It promises that a fixture is asked for once in each suite, that
// all keys and orders are new, and that nothing in it waits for a time.
package providertest
