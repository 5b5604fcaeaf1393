// Looks each name up with Go's own resolver (build with CGO_ENABLED=0).
// Prints one line a name: NAME took=SECONDS ADDRESS... or error=TEXT. Status 1 if any failed.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	status := 0
	for _, name := range os.Args[1:] {
		started := time.Now()
		found, err := net.DefaultResolver.LookupHost(context.Background(), name)
		took := time.Since(started).Seconds()
		if err != nil {
			fmt.Printf("%s took=%.6f error=%v\n", name, took, err)
			status = 1
			continue
		}
		fmt.Printf("%s took=%.6f %s\n", name, took, strings.Join(found, " "))
	}
	os.Exit(status)
}
