// Package conformance is the Gateway API's own suite, as a program of its own: `cargo xtask conformance` builds it
// and gives it its options.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }
