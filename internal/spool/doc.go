// Package spool keeps records on disk while the server that they are for is away: a bounded log of segments, oldest first, that loses
// nothing it has accepted.
//
// Append answers when its records are on disk (fsync), those of several callers with one fsync, and a lone caller's at once. Drained gives
// the room of what has arrived at the server back, a segment at a time. A record is known by its number, which grows by one and is never
// used again in a spool; together with the ID of the process that has appended it, it names the record for ever, so that a drain
// that is interrupted can be repeated. Each start of a process has an ID of its own, so that whoever has the copy of a folder, or one that was
// restored, names nothing else by the same name.
//
// # On disk
//
// A spool is a folder, "spool-0", "spool-1" and so on: a process takes the first that no living process has, and with it what a dead one
// left behind. A folder belongs to one server, by an ID that is kept in that or by its address, and is left alone by processes of another.
//
//	lock                     held by flock as long as the process lives
//	owner                    what the records are for
//	00000000000000000001.log segments, named after their first record
//	*.damaged                copies of what could not be read, named after its segment and offset
//	reserve                  room for a segment on a disk that is full
//
// A segment begins with a header (magic "millspl2", the number of its first record, the ID, CRC-32C of all) and holds records one after the other. One of
// the first version ("millspl1") has no ID; that in owner is its.
//
//	length of the data  4 bytes, little endian
//	CRC-32C             4 bytes, of the length, the number and the data
//	data
//
// What a crash left half-written at the end of a segment is cut off when it is opened, and reported: it was never accepted.
package spool
