// Package redisstream holds every Redis command, key and Lua script of Millrace. It is a leaf: it knows entries and bytes,
// not events.
//
// A step that changes more than one thing is one script in lua/, which says at its top what its KEYS, ARGV and result
// are. All keys of one stream share a Cluster slot (keys.go), so each script is a single-slot script. What a server or a
// connection says is classified in one function (errors.go).
//
// A Client has three connection pools, apart from each other so that none can starve the others: appends (never retried by
// go-redis, which would append twice), blocking reads (each holds a connection for as long as it waits), and the rest.
package redisstream
