package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"millrace/db/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

// A bench that nobody reads any more ends what it started.
func TestBenchEndsWhereNobodyReadsWhatItPrints(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	program, err := b.program(t.Context(), "bench")
	require.NoError(t, err)
	read, write, err := os.Pipe()
	require.NoError(t, err)
	temp := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(temp), 0o755)) // the server's user may be another
	p, err := os.StartProcess(program, []string{program, "growth", "--rounds=1000"}, &os.ProcAttr{Env: append(os.Environ(), "TMPDIR="+temp), Files: []*os.File{nil, write, write}})
	require.NoError(t, err)
	require.NoError(t, write.Close())
	servers := filepath.Join(temp, "millrace-bench-*", "pg", "*")
	require.Eventually(t, func() bool {
		found, err := filepath.Glob(servers)
		return err == nil && len(found) > 0
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, read.Close())
	tooLong := time.AfterFunc(2*time.Minute, func() { _ = p.Kill() }) // it may have ended
	defer tooLong.Stop()
	state, err := p.Wait()
	require.NoError(t, err)
	require.Equal(t, 1, state.ExitCode(), state)
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	require.Empty(t, left)
}

// What is beside a gate goes on when clients break off: their sockets are no output of it.
func TestWhatIsBesideAGateOutlivesItsClients(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	n, err := b.beside(t.Context())
	require.NoError(t, err)
	for range 5 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", n.addr)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		_, err = io.WriteString(conn, strings.Repeat(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", pagePath), 500))
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).SetLinger(0)) // answers on their way are refused
		require.NoError(t, conn.Close())
	}
	status, _, err := fetch(t.Context(), "http://"+n.addr+pagePath)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, n.stop())
}
