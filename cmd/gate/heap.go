package main

import (
	"os"
	"runtime/debug"
)

// heapRoom is memory that the garbage collector counts and nobody touches, so that it takes up none. The gate holds little and
// allocates much: this lets it collect after 32 MB and a quarter of what lives, instead of after a few megabytes, which is a tenth more
// requests a second; and with ten thousand streams sooner than by the usual percentage.
var heapRoom []byte

const (
	heapRoomSize = 128 << 20
	gatePercent  = 25
)

// makeHeapRoom sets the collector up, unless GOGC says otherwise.
func makeHeapRoom() {
	if os.Getenv("GOGC") == "" && heapRoom == nil {
		heapRoom = make([]byte, heapRoomSize)
		debug.SetGCPercent(gatePercent)
	}
}
