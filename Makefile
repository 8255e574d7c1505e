# The commands of the documents. Nothing but Go is needed for any of them.
.PHONY: quickstart test race ci promises bench shop fuzz

quickstart: ## see it work
	go run ./examples/quickstart

test: ## the whole suite
	go test ./...

race: ## the whole suite with the race detector, on a machine with cores to spare
	go test -race -timeout 40m ./...

ci: ## everything that has to hold before a merge
	.ci/run

promises: ## write the README's table from what the tests measure
	go test -count=1 -json -skip 'TestEveryPromise|TestReadme' . | go run ./internal/promises

bench: ## write docs/benchmarks.md and its pictures
	cd bench && go run ./cmd/report

shop: ## two services in many processes, some of which are killed
	cd examples/shop && go test -v ./...

fuzz: ## each fuzz target for a minute
	for target in $$(grep -ho 'func Fuzz[[:alnum:]]*' *_test.go | sed 's/func //'); do \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime 60s . || exit 1; done
