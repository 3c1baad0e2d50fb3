//go:build programs

// The applications that the suite deploys: this file only keeps them in go.mod.
package conformance

import (
	_ "istio.io/istio/pkg/test/echo/cmd/client"
	_ "istio.io/istio/pkg/test/echo/cmd/server"
	_ "sigs.k8s.io/gateway-api/conformance/echo-basic"
)
