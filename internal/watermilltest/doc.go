// Package watermilltest holds Millrace to Watermill: its tests run Watermill's own conformance suite on the bus's Publisher and
// Subscriber, with a redis-server that is restarted meanwhile, and prove that streams are read and written in one fleet with
// watermill-redisstream. There is nothing here but tests.
package watermilltest
