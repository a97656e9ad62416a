// Package web serves the pages that people use: the storefront, a customer's orders and their live timelines, the operators' page,
// River UI and the API's documentation. Pages are rendered on the server from the store; small ES modules add what needs a script
// (placing an order, following it live, the buttons), always through the same API that any other client uses, so that a page can do
// nothing that the API would not allow.
//
// It owns the templates, the style sheet, the modules and the vendored assets, all embedded. It may import the root package, db and
// River; never package http, which mounts it, nor the gate: who is asking is told by Config.Identity.
//
// It promises that a page loads nothing from another host and runs no inline script (a strict content security policy, loosened for
// the styles of River UI and the icons of the API documentation alone), that a customer sees no order but their own, and that whatever it shows
// is escaped.
package web
