# The commands of the documents. Nothing but Go is needed for any of them.
.PHONY: quickstart test race ci promises bench shop fuzz

quickstart: ## see it work
	go run -C examples ./quickstart

test: ## the tests of all modules
	go test ./... && go test -C tests ./... && go test -C examples ./... && go test -C bench ./...

race: ## with the race detector
	go test -race ./... && go test -C tests -race -timeout 20m ./...

ci: ## everything that has to hold before a merge
	.ci/run

promises: ## write docs/promises.md and the README's table from what the tests say
	{ go test -count=1 -json ./internal/... ; \
	  go test -C tests -count=1 -json -skip 'TestEveryPromise|TestReadme' ./... ; } | go run ./internal/promises

bench: ## write docs/benchmarks.md and its pictures
	cd bench && go run ./cmd/report

shop: ## two services in many processes, some of which are killed
	go test -C examples -v ./shop/...

fuzz: ## each fuzz target for a minute
	.ci/fuzz 60s
