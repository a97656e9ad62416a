package main

import (
	"testing"

	"millrace/db/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }
