#!/bin/sh
# Runs every fuzzer of the project for FUZZTIME each. A finding stays in that room's testdata/fuzz and fails the tests until it is mended.
set -eu
GO=${GO:-go} FUZZTIME=${FUZZTIME:-60s}
for p in $($GO list -f '{{.Dir}}' ./...); do
	for f in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$p"/*_test.go 2>/dev/null); do
		echo "$p $f"
		(cd "$p" && $GO test -run '^$' -fuzz "^$f\$" -fuzztime "$FUZZTIME" .)
	done
done
