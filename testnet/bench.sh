#!/bin/sh
# Runs the benchmarks COUNT times and prints, for each figure, the median and the spread (minimum to maximum).
set -eu
GO=${GO:-go} COUNT=${COUNT:-5} PKG=${PKG:-./...} BENCH=${BENCH:-.} BENCHTIME=${BENCHTIME:-1s}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for p in $($GO list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' $PKG); do
	grep -lq '^func Benchmark' "$p"/*_test.go 2>/dev/null || continue
	echo "benchmarking ${p##*/} ($COUNT runs)" >&2
	(cd "$p" && $GO test -run '^$' -bench "$BENCH" -benchtime "$BENCHTIME" -count "$COUNT" -timeout 60m .) | tee -a "$out" >&2
done
awk '
/^pkg: / { sub(/.*valise\/?/, "", $2); pkg = $2 }
/^Benchmark/ {
	for (i = 3; i < NF; i += 2) {
		k = pkg " " $1 "\t" $(i + 1)
		if (!(k in n)) order[++keys] = k
		v[k, ++n[k]] = $i
	}
}
function num(x) { return x >= 1000 ? sprintf("%.0f", x) : sprintf("%.4g", x) }
END {
	printf "%-72s %-14s %12s   %s\n", "benchmark", "unit", "median", "spread"
	for (j = 1; j <= keys; j++) {
		k = order[j]; c = n[k]
		for (a = 1; a <= c; a++) for (b = a + 1; b <= c; b++) if (v[k, b] + 0 < v[k, a] + 0) { t = v[k, a]; v[k, a] = v[k, b]; v[k, b] = t }
		m = c % 2 ? v[k, (c + 1) / 2] : (v[k, c / 2] + v[k, c / 2 + 1]) / 2
		split(k, f, "\t")
		printf "%-72s %-14s %12s   %s - %s\n", f[1], f[2], num(m + 0), num(v[k, 1] + 0), num(v[k, c] + 0)
	}
}' "$out"
