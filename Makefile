# What a contributor types. `make test` is all a new machine needs; CI runs .ci/run.

tool := go tool -modfile=.ci/tools.mod

.PHONY: test race lint fmt generate check-generated

# all tests, after installing what they use and this machine lacks (apt; Chromium and Postgres)
test: setup
	go test ./...

# the same under the race detector (needs gcc); -short makes the longest loads smaller and leaves nothing out
race: setup
	go test -race -short ./...

lint:
	go vet ./...
	$(tool) golangci-lint run

fmt:
	$(tool) golangci-lint fmt

# the code that sqlc writes from db/query/*.sql and schema.sql
generate:
	$(tool) sqlc generate

# fails when generated code is not what `make generate` would write
check-generated:
	.ci/check-generated

.PHONY: setup
setup:
	@.ci/setup
