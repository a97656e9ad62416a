package identity_test

import (
	"fmt"
	"net/http"

	"millrace/gate/identity"
)

func ExampleVerifier_Middleware() {
	v, err := identity.NewVerifier(identity.Config{
		JWKSURL:  "http://127.0.0.1:8080/.well-known/jwks.json",
		Audience: "reports",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _ := identity.FromContext(r.Context())
		fmt.Fprintln(w, "hello", who.Name)
	})
	server := &http.Server{Addr: "127.0.0.1:9000", Handler: v.Middleware(hello)}
	fmt.Println(server.Addr)
	// Output: 127.0.0.1:9000
}
