/* SPDX-License-Identifier: MIT */
#include "rundir/statefile.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "rundir/rundir.h"
#include "util/util.h"

#ifndef UMIG_STATE_VERSION /* another build, in the tests of an upgrade */
#define UMIG_STATE_VERSION 2
#endif

enum { STATE_VERSION = UMIG_STATE_VERSION };

const char *const move_record_name[MOVE_NRECORDS] = {
	[MOVE_BEGUN] = "begun",
	[MOVE_STOPPING] = "stopping",
	[MOVE_COMMITTED] = "committed",
	[MOVE_LOADING] = "loading",
	[MOVE_RUNNING] = "running",
	[MOVE_RAN] = "ran",
	[MOVE_COMPLETED] = "completed",
	[MOVE_DONE] = "done",
	[MOVE_ROLLED_BACK] = "rolled-back",
	[MOVE_REFUSED] = "refused",
	[MOVE_LOST] = "lost",
	[MOVE_GIVEN_UP] = "given-up",
};

bool move_ended(const struct move_state *s)
{
	return s->record >= MOVE_DONE && s->migration;
}

bool move_has_left(const struct move_state *s)
{
	return s->outgoing && (s->record == MOVE_COMMITTED || s->record == MOVE_RAN ||
			       s->record == MOVE_COMPLETED || s->record == MOVE_DONE ||
			       s->record == MOVE_GIVEN_UP);
}

void move_session_put(char out[MOVE_SESSION_TEXT], const uint8_t *bytes)
{
	for (unsigned int i = 0; i < MOVE_SESSION_BYTES; i++)
		sprintf(out + (size_t)2 * i, "%02x", bytes[i]);
}

bool move_session_get(uint8_t *ret_bytes, const char *text)
{
	unsigned int byte;

	if (!text || strlen(text) != 2 * MOVE_SESSION_BYTES ||
	    strspn(text, "0123456789abcdef") != 2 * MOVE_SESSION_BYTES)
		return false;
	for (unsigned int i = 0; i < MOVE_SESSION_BYTES; i++) {
		sscanf(text + (size_t)2 * i, "%2x", &byte);
		ret_bytes[i] = (uint8_t)byte;
	}
	return true;
}

static int record_of(const char *name)
{
	for (int i = 0; i < MOVE_NRECORDS; i++)
		if (!strcmp(name, move_record_name[i]))
			return i;
	return -1;
}

int statefile_save(const char *name, const struct move_state *s, struct err *e)
{
	char session[MOVE_SESSION_TEXT], token[MOVE_SESSION_TEXT];
	json_t *o = json_pack("{s:i, s:s, s:s, s:s, s:b}", "version", STATE_VERSION, "role",
			      s->outgoing ? "source" : "destination", "record",
			      move_record_name[s->record], "peer", s->peer, "was-running",
			      s->was_running);
	int rc;

	if (!o)
		return err_set(e, ENOMEM, "no memory to write down how far %s is", name);
	if (s->has_session) {
		move_session_put(session, s->session);
		move_session_put(token, s->token);
		json_object_set_new(o, "session", json_string(session));
		json_object_set_new(o, "token", json_string(token));
	}
	if (s->settings)
		json_object_set(o, "settings", s->settings);
	if (s->migration)
		json_object_set(o, "migration", s->migration);
	rc = rundir_write(name, "state.json", o, e);
	json_decref(o);
	return rc;
}

static int read_state(const char *name, const json_t *o, struct move_state *s, struct err *e)
{
	const char *role, *record, *peer, *session = NULL, *token = NULL;
	int version, was_running, what;

	if (json_unpack((json_t *)o, "{s:i}", "version", &version) < 0)
		return err_set(e, EBADMSG, "state.json of %s has no version: was it edited?", name);
	if (version > STATE_VERSION)
		return err_set(
			e, EPROTONOSUPPORT,
			"state.json of %s is of version %d, this umig knows %d: use the newer umig that wrote it",
			name, version, STATE_VERSION);
	if (json_unpack((json_t *)o, "{s:s, s:s, s:s, s:b, s?:s, s?:s}", "role", &role, "record",
			&record, "peer", &peer, "was-running", &was_running, "session", &session,
			"token", &token) < 0 ||
	    (what = record_of(record)) < 0 ||
	    (strcmp(role, "source") != 0 && strcmp(role, "destination") != 0))
		return err_set(e, EBADMSG, "state.json of %s lacks something: was it edited?",
			       name);
	s->outgoing = !strcmp(role, "source");
	s->record = what;
	s->was_running = was_running;
	snprintf(s->peer, sizeof(s->peer), "%s", peer);
	if (session) {
		if (!move_session_get(s->session, session) || !move_session_get(s->token, token))
			return err_set(
				e, EBADMSG,
				"state.json of %s has a session that cannot be: was it edited?",
				name);
		s->has_session = true;
	}
	s->settings = json_incref(json_object_get(o, "settings"));
	s->migration = json_incref(json_object_get(o, "migration"));
	return 0;
}

int statefile_load(const char *name, struct move_state *ret_s, struct err *e)
{
	json_t *o;
	int rc;

	*ret_s = (struct move_state){ 0 };
	rc = rundir_read(name, "state.json", &o, e);
	if (rc < 0)
		return rc;
	rc = read_state(name, o, ret_s, e);
	json_decref(o);
	return rc;
}

void statefile_free(struct move_state *s)
{
	json_decref(s->settings);
	json_decref(s->migration);
	s->settings = s->migration = NULL;
}
