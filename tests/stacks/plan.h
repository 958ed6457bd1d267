/* SPDX-License-Identifier: Apache-2.0 */
/* The fault plan as the C programs read it: just enough JSON for what plans.py writes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Json {
    char kind; /* { [ s n t f 0 */
    char *key, *text;
    double number;
    struct Json *first, *next;
} Json;

static void json_die(const char *what) { fprintf(stderr, "plan: %s\n", what); exit(2); }
static void json_space(const char **at) { while(**at && strchr(" \t\r\n,:", **at)) (*at)++; }

static unsigned json_hex(const char **at) {
    unsigned value = 0;
    for(int i = 0; i < 4; i++, (*at)++)
        value = value * 16 + (unsigned)(**at <= '9' ? **at - '0' : (**at | 32) - 'a' + 10);
    return value;
}

static char *json_string(const char **at) {
    size_t size = 0;
    char *out = (char *)malloc(strlen(*at) < 64 ? 64 : strcspn(*at + 1, "\"") * 3 + 4096);
    for((*at)++; **at != '"'; (*at)++) {
        if(!**at) json_die("a text has no end");
        if(**at != '\\') { out[size++] = **at; continue; }
        (*at)++;
        if(**at == 'n') out[size++] = '\n';
        else if(**at == 't') out[size++] = '\t';
        else if(**at != 'u') out[size++] = **at;
        else {
            (*at)++;
            unsigned code = json_hex(at);
            if(code >= 0xD800 && code < 0xDC00) { *at += 2; code = 0x10000 + ((code - 0xD800) << 10) + (json_hex(at) - 0xDC00); }
            (*at)--;
            if(code < 0x80) out[size++] = (char)code;
            else if(code < 0x800) { out[size++] = (char)(0xC0 | code >> 6); out[size++] = (char)(0x80 | (code & 63)); }
            else if(code < 0x10000) {
                out[size++] = (char)(0xE0 | code >> 12); out[size++] = (char)(0x80 | (code >> 6 & 63)); out[size++] = (char)(0x80 | (code & 63));
            } else {
                out[size++] = (char)(0xF0 | code >> 18); out[size++] = (char)(0x80 | (code >> 12 & 63));
                out[size++] = (char)(0x80 | (code >> 6 & 63)); out[size++] = (char)(0x80 | (code & 63));
            }
        }
    }
    (*at)++;
    out[size] = 0;
    return out;
}

static Json *json_value(const char **at) {
    Json *one = (Json *)calloc(1, sizeof(Json)), **last = &one->first;
    json_space(at);
    if(**at == '{' || **at == '[') {
        one->kind = *(*at)++;
        for(json_space(at); **at != '}' && **at != ']'; json_space(at)) {
            if(!**at) json_die("a list has no end");
            char *key = one->kind == '{' ? json_string(at) : NULL;
            *last = json_value(at);
            (*last)->key = key;
            last = &(*last)->next;
        }
        (*at)++;
    } else if(**at == '"') { one->kind = 's'; one->text = json_string(at); }
    else if(!strncmp(*at, "true", 4)) { one->kind = 't'; one->number = 1; *at += 4; }
    else if(!strncmp(*at, "false", 5)) { one->kind = 'f'; *at += 5; }
    else if(!strncmp(*at, "null", 4)) { one->kind = '0'; *at += 4; }
    else { char *end; one->kind = 'n'; one->number = strtod(*at, &end); if(end == *at) json_die("no JSON"); *at = end; }
    return one;
}

static Json *json_get(const Json *in, const char *key) {
    for(Json *one = in ? in->first : NULL; one; one = one->next)
        if(one->key && !strcmp(one->key, key)) return one;
    return NULL;
}
static double json_number(const Json *in, const char *key, double otherwise) { Json *one = json_get(in, key); return one ? one->number : otherwise; }
static const char *json_text(const Json *in, const char *key) { Json *one = json_get(in, key); return one && one->text ? one->text : ""; }

static char *file_bytes(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if(!file) { perror(path); exit(2); }
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *data = (char *)malloc(*size + 1);
    if(fread(data, 1, *size, file) != *size) json_die(path);
    data[*size] = 0;
    fclose(file);
    return data;
}
