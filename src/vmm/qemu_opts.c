/* SPDX-License-Identifier: MIT */
#include "vmm/qemu_opts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Up to the next single comma; ",," is one. */
static char *take_word(const char **at)
{
	char *word = malloc(strlen(*at) + 1), *out = word;

	while (word && **at) {
		if (**at == ',' && (*at)[1] != ',')
			break;
		*at += **at == ',';
		*out++ = *(*at)++;
	}
	if (word)
		*out = '\0';
	*at += **at == ',';
	return word;
}

static int take_pair(struct qemu_opts *o, char *word, const char *implied)
{
	char *equals = strchr(word, '=');
	char *key = NULL, *value = NULL;

	if (equals) {
		key = strndup(word, (size_t)(equals - word));
		value = strdup(equals + 1);
	} else if (implied && !o->n) {
		key = strdup(implied);
		value = strdup(word);
	} else { /* "share" is short for "share=on" */
		key = strdup(word);
		value = strdup("on");
	}
	if (!key || !value || o->n == QEMU_OPTS_MAX) {
		free(key);
		free(value);
		return -E2BIG;
	}
	o->key[o->n] = key;
	o->value[o->n++] = value;
	return 0;
}

int qemu_opts_parse(struct qemu_opts *o, const char *text, const char *implied, struct err *e)
{
	const char *at = text;
	json_error_t why;
	int rc = 0;

	memset(o, 0, sizeof(*o));
	if (*text == '{') {
		o->json = json_loads(text, 0, &why);
		if (!json_is_object(o->json))
			return err_set(e, EINVAL, "'%.100s' is no JSON: %s", text, why.text);
		return 0;
	}
	while (!rc && *at) {
		char *word = take_word(&at);

		rc = word ? take_pair(o, word, implied) : -ENOMEM;
		free(word);
	}
	if (rc < 0) {
		qemu_opts_free(o);
		return err_set(e, -rc, "'%.100s' has more than %d parts", text, QEMU_OPTS_MAX);
	}
	return 0;
}

void qemu_opts_free(struct qemu_opts *o)
{
	for (unsigned int i = 0; i < o->n; i++) {
		free(o->key[i]);
		free(o->value[i]);
	}
	json_decref(o->json);
	memset(o, 0, sizeof(*o));
}

const char *qemu_opts_get(const struct qemu_opts *o, const char *key, char buf[QEMU_TEXT_MAX])
{
	const json_t *j = json_object_get(o->json, key);

	if (json_is_boolean(j))
		return json_is_true(j) ? "on" : "off";
	if (json_is_integer(j)) {
		snprintf(buf, QEMU_TEXT_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(j));
		return buf;
	}
	if (j)
		return json_string_value(j);
	for (unsigned int i = o->n; i--;)
		if (!strcmp(o->key[i], key))
			return o->value[i];
	return NULL;
}

bool qemu_opts_on(const struct qemu_opts *o, const char *key, bool missing)
{
	char buf[QEMU_TEXT_MAX];
	const char *value = qemu_opts_get(o, key, buf);

	if (!value)
		return missing;
	return !strcmp(value, "on") || !strcmp(value, "yes") || !strcmp(value, "true") ||
	       !strcmp(value, "y");
}

static void drop(struct qemu_opts *o, const char *key)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < o->n; i++) {
		if (!strcmp(o->key[i], key)) {
			free(o->key[i]);
			free(o->value[i]);
			continue;
		}
		o->key[kept] = o->key[i];
		o->value[kept++] = o->value[i];
	}
	o->n = kept;
}

void qemu_opts_set(struct qemu_opts *o, const char *key, const char *value)
{
	bool truth = value && (!strcmp(value, "on") || !strcmp(value, "off"));

	if (o->json && !value)
		json_object_del(o->json, key);
	else if (o->json)
		json_object_set_new(o->json, key,
				    truth ? json_boolean(!strcmp(value, "on"))
					  : json_string(value));
	if (o->json)
		return;
	for (unsigned int i = 0; value && i < o->n; i++) {
		if (strcmp(o->key[i], key) != 0)
			continue;
		free(o->value[i]); /* in its place: the type comes first */
		o->value[i] = strdup(value);
		return;
	}
	drop(o, key);
	if (value && o->n < QEMU_OPTS_MAX) {
		o->key[o->n] = strdup(key);
		o->value[o->n++] = strdup(value);
	}
}

char *qemu_opts_text(const struct qemu_opts *o)
{
	size_t len;
	char *text = NULL;
	FILE *f;

	if (o->json)
		return json_dumps(o->json, JSON_COMPACT);
	f = open_memstream(&text, &len);
	for (unsigned int i = 0; f && i < o->n; i++) {
		fprintf(f, "%s%s=", i ? "," : "", o->key[i]);
		for (const char *c = o->value[i]; *c; c++)
			fprintf(f, *c == ',' ? ",," : "%c", *c);
	}
	if (f)
		fclose(f);
	return text;
}

int qemu_size(const char *text, uint64_t unit_bytes, uint64_t *ret_bytes)
{
	static const char letters[] = "bkmgtpe";
	const char *letter;
	double n;
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	n = strtod(text, &end);
	letter = *end ? strchr(letters, *end | 0x20) : NULL;
	if (*end && (!letter || end[1]))
		return -EINVAL;
	if (letter)
		unit_bytes = 1ull << 10 * (letter - letters);
	n *= (double)unit_bytes;
	if (!(n >= 1) || n >= 0x1p62)
		return -EINVAL;
	*ret_bytes = (uint64_t)n;
	return 0;
}
