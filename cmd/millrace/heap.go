package main

import (
	"os"
	"runtime/debug"
)

// heapRoom is memory that the garbage collector counts and nobody touches, so that it takes up no memory. An API process holds little
// and allocates much: with the collector's percentage alone it would collect whenever a few megabytes have been allocated, at a fifth
// of its processor time; with a higher percentage ten thousand streams would take several times their size. With this the process
// collects after 32 MB and a quarter of what lives.
var heapRoom []byte

const (
	heapRoomSize = 128 << 20
	apiGC        = 25
)

// makeHeapRoom sets the collector up for an API process, unless GOGC says otherwise.
func makeHeapRoom() {
	if os.Getenv("GOGC") == "" && heapRoom == nil {
		heapRoom = make([]byte, heapRoomSize)
		debug.SetGCPercent(apiGC)
	}
}
