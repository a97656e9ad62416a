package main

import (
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Where the machine has no huge pages reserved nobody uses any, and where it has, who maps one does.
func TestHugePagesAreSaidToBeUsedWhereTheyAre(t *testing.T) {
	t.Parallel()
	require.Equal(t, "off", hugePagesOf(os.Getpid()))
	const size = 2 << 20
	page, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS|syscall.MAP_HUGETLB)
	reserved := err == nil
	if reserved {
		require.Equal(t, "on", hugePagesOf(os.Getpid()))
		require.NoError(t, syscall.Munmap(page))
	}
	require.Equal(t, "unknown", hugePagesOf(0))

	c, err := pgx.Connect(t.Context(), testBed(t).url)
	require.NoError(t, err)
	defer c.Close(t.Context())
	status, err := hugePages(t.Context(), c)
	require.NoError(t, err)
	require.Contains(t, []string{"on", "off"}, status)
	if !reserved {
		require.Equal(t, "off", status)
	}
}
