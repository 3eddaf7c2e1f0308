-- Point-in-time join: rows for each vehicle update about stops ahead of it on its trip and, at the trip's first stop,
-- about the departure, with the time that was observed as the label. BigQuery dialect.
--
-- Reads `vehicle`, `trip`, `stop` and `schedule` for @service_date. The other parameters are constants of
-- `plausibility`, `formulas`, `placement`, `distances` and `service_day`, and whether there are rows about every stop
-- ahead; they are filled in when the statement is rendered.
-- No column but the label depends on anything after the row's `time_stamp`, nor does the existence of the row.
--
-- DIV has its arguments in parentheses and GREATEST is written as IF, since sqlglot translates both as text.
WITH RECURSIVE service_day AS (
  SELECT
    TIMESTAMP_SUB(TIMESTAMP(DATETIME(@service_date, TIME '12:00:00'), @time_zone), INTERVAL 12 HOUR) AS start_time
),

-- Scheduled times far from the service day are missing.
plausible_stop AS (
  SELECT
    NULLIF(TRIM(s.trip_id, @blanks), '') AS trip_id,
    NULLIF(TRIM(s.stop_id, @blanks), '') AS stop_id,
    IF(
      s.arrival_time >= TIMESTAMP_ADD(d.start_time, INTERVAL @min_scheduled_hours HOUR)
      AND s.arrival_time < TIMESTAMP_ADD(d.start_time, INTERVAL @max_scheduled_hours HOUR),
      s.arrival_time,
      NULL
    ) AS arrival_time,
    IF(
      s.departure_time >= TIMESTAMP_ADD(d.start_time, INTERVAL @min_scheduled_hours HOUR)
      AND s.departure_time < TIMESTAMP_ADD(d.start_time, INTERVAL @max_scheduled_hours HOUR),
      s.departure_time,
      NULL
    ) AS departure_time,
    s.stop_sequence,
    s.timepoint
  FROM schedule AS s
  CROSS JOIN service_day AS d
  WHERE s.service_date = @service_date
),

-- Added and non-revenue trips have no meaningful schedule, so that no arrival of theirs is predicted. A stop time that
-- is there twice counts once.
distinct_stop AS (
  SELECT
    trip_id,
    stop_id,
    arrival_time,
    departure_time,
    COALESCE(arrival_time, departure_time) AS due_time,
    stop_sequence,
    timepoint
  FROM plausible_stop
  WHERE
    trip_id IS NOT NULL
    AND stop_id IS NOT NULL
    AND NOT STARTS_WITH(trip_id, 'ADDED-')
    AND NOT STARTS_WITH(trip_id, 'NONREV-')
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY
      trip_id, stop_id, stop_sequence, IF(stop_sequence IS NULL, COALESCE(arrival_time, departure_time), NULL)
    ORDER BY
      COALESCE(arrival_time, departure_time) IS NULL,
      COALESCE(arrival_time, departure_time),
      arrival_time,
      departure_time,
      timepoint
  ) = 1
),

-- The stop sequences of a trip identify its stop visits if they are complete and distinct.
sequenced_trip AS (
  SELECT
    trip_id,
    COUNT(*) = COUNT(DISTINCT stop_sequence) AS is_sequenced,
    COUNT(*) > COUNT(due_time) AS has_blanks
  FROM distinct_stop
  GROUP BY trip_id
),

-- The blank times of a trip lie between those of two timed stops: the one before it in the sequence, and the one that
-- follows that one in time, since a trip's last stop may have a 1.
timed_stop AS (
  SELECT
    s.trip_id,
    s.stop_id,
    s.stop_sequence,
    COALESCE(s.departure_time, s.arrival_time) AS departure_time,
    LEAD(s.stop_id) OVER (
      PARTITION BY s.trip_id
      ORDER BY s.due_time, s.arrival_time IS NOT NULL, s.departure_time IS NULL, s.stop_sequence
    ) AS next_stop_id,
    LEAD(s.due_time) OVER (
      PARTITION BY s.trip_id
      ORDER BY s.due_time, s.arrival_time IS NOT NULL, s.departure_time IS NULL, s.stop_sequence
    ) AS next_time
  FROM distinct_stop AS s
  INNER JOIN sequenced_trip AS q ON q.trip_id = s.trip_id
  WHERE q.is_sequenced AND q.has_blanks AND s.due_time IS NOT NULL
),

blank_stop AS (
  SELECT
    s.trip_id,
    s.stop_id,
    s.due_time,
    s.stop_sequence,
    s.timepoint,
    MAX(IF(s.due_time IS NULL, NULL, s.stop_sequence)) OVER (
      PARTITION BY s.trip_id ORDER BY s.stop_sequence
    ) AS timed_sequence
  FROM distinct_stop AS s
  INNER JOIN sequenced_trip AS q ON q.trip_id = s.trip_id
  WHERE q.is_sequenced AND q.has_blanks
  QUALIFY s.due_time IS NULL
),

-- The way from a timed stop over the blank ones to the next timed stop, one row for the end of each segment.
gap_stop AS (
  SELECT trip_id, timed_sequence, stop_id, stop_sequence, timepoint, FALSE AS is_end
  FROM blank_stop
  UNION ALL
  SELECT trip_id, stop_sequence, next_stop_id, NULL, NULL, TRUE
  FROM timed_stop
),

gap_segment AS (
  SELECT
    g.trip_id,
    g.timed_sequence,
    g.stop_id,
    g.stop_sequence,
    g.timepoint,
    g.is_end,
    COALESCE(
      LAG(g.stop_id) OVER (PARTITION BY g.trip_id, g.timed_sequence ORDER BY g.is_end, g.stop_sequence), t.stop_id
    ) AS from_stop_id,
    t.departure_time,
    UNIX_MICROS(t.next_time) - UNIX_MICROS(t.departure_time) AS duration
  FROM gap_stop AS g
  INNER JOIN timed_stop AS t ON t.trip_id = g.trip_id AND t.stop_sequence = g.timed_sequence
  WHERE t.next_time IS NOT NULL
),

-- A position out of range or at null island is missing.
named_stop AS (
  SELECT
    NULLIF(TRIM(p.id, @blanks), '') AS id,
    p.name,
    p.platform_name,
    IF(
      ABS(p.latitude) <= @max_latitude
      AND ABS(p.longitude) <= @max_longitude
      AND (ABS(p.latitude) >= @null_island_degrees OR ABS(p.longitude) >= @null_island_degrees),
      p.latitude,
      NULL
    ) AS latitude,
    IF(
      ABS(p.latitude) <= @max_latitude
      AND ABS(p.longitude) <= @max_longitude
      AND (ABS(p.latitude) >= @null_island_degrees OR ABS(p.longitude) >= @null_island_degrees),
      p.longitude,
      NULL
    ) AS longitude,
    NULLIF(TRIM(p.parent_station, @blanks), '') AS parent_station
  FROM stop AS p
  WHERE p.service_date = @service_date
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY NULLIF(TRIM(p.id, @blanks), '')
    ORDER BY p.name, p.platform_name, p.latitude, p.longitude, p.parent_station
  ) = 1
),

gap_chord AS (
  SELECT
    g.trip_id,
    g.timed_sequence,
    g.stop_id,
    g.stop_sequence,
    g.timepoint,
    g.is_end,
    g.departure_time,
    IF(g.duration > 0, DIV((g.duration), (1000000)), 0) AS seconds,
    POW(SIN((b.latitude - a.latitude) * ACOS(-1) / 360), 2)
    + COS(a.latitude * ACOS(-1) / 180) * COS(b.latitude * ACOS(-1) / 180)
    * POW(SIN((b.longitude - a.longitude) * ACOS(-1) / 360), 2) AS half_chord
  FROM gap_segment AS g
  LEFT JOIN named_stop AS a ON a.id = g.from_stop_id
  LEFT JOIN named_stop AS b ON b.id = g.stop_id
),

gap_length AS (
  SELECT
    trip_id,
    timed_sequence,
    stop_id,
    stop_sequence,
    timepoint,
    is_end,
    departure_time,
    seconds,
    CAST(
      FLOOR(
        2 * @earth_radius_miles * ASIN(SQRT(IF(half_chord > 1, 1.0, half_chord))) * @metres_per_mile + 0.5
      ) AS INT64
    ) AS metres
  FROM gap_chord
),

gap_way AS (
  SELECT
    trip_id,
    stop_id,
    stop_sequence,
    timepoint,
    is_end,
    departure_time,
    seconds,
    ROW_NUMBER() OVER (PARTITION BY trip_id, timed_sequence ORDER BY is_end, stop_sequence) AS nth,
    COUNT(*) OVER (PARTITION BY trip_id, timed_sequence) AS n_segments,
    SUM(metres) OVER (PARTITION BY trip_id, timed_sequence ORDER BY is_end, stop_sequence) AS metres,
    IF(
      COUNT(metres) OVER (PARTITION BY trip_id, timed_sequence)
      = COUNT(*) OVER (PARTITION BY trip_id, timed_sequence),
      NULLIF(SUM(metres) OVER (PARTITION BY trip_id, timed_sequence), 0),
      NULL
    ) AS metres_in_all
  FROM gap_length
),

-- Blank times are interpolated by distance where every position is known, else evenly; to the nearest second.
interpolated_stop AS (
  SELECT
    trip_id,
    stop_id,
    TIMESTAMP_ADD(
      departure_time,
      INTERVAL COALESCE(
        DIV((2 * seconds * CAST(metres AS INT64) + CAST(metres_in_all AS INT64)), (2 * CAST(metres_in_all AS INT64))),
        DIV((2 * seconds * nth + n_segments), (2 * n_segments))
      ) SECOND
    ) AS due_time,
    stop_sequence,
    timepoint
  FROM gap_way
  WHERE NOT is_end
),

scheduled_stop AS (
  SELECT
    s.trip_id,
    s.stop_id,
    s.arrival_time,
    s.departure_time,
    s.due_time,
    s.stop_sequence,
    q.is_sequenced,
    s.timepoint,
    FALSE AS is_interpolated
  FROM distinct_stop AS s
  INNER JOIN sequenced_trip AS q ON q.trip_id = s.trip_id
  WHERE s.due_time IS NOT NULL
  UNION ALL
  SELECT trip_id, stop_id, due_time, due_time, due_time, stop_sequence, TRUE, timepoint, TRUE
  FROM interpolated_stop
),

-- Stop times in the order of their times; stop_sequence only breaks ties, since a trip's last stop may have a 1. A trip
-- does not serve a stop twice in a row: without stop_sequence the second is the same visit.
ordered_stop AS (
  SELECT
    trip_id,
    stop_id,
    arrival_time,
    departure_time,
    due_time,
    stop_sequence,
    is_sequenced,
    timepoint,
    is_interpolated,
    ROW_NUMBER() OVER (
      PARTITION BY trip_id
      ORDER BY due_time, arrival_time IS NOT NULL, departure_time IS NULL, stop_sequence, stop_id
    ) AS place
  FROM scheduled_stop
  QUALIFY
    stop_sequence IS NOT NULL
    OR COALESCE(
      stop_id != LAG(stop_id) OVER (
        PARTITION BY trip_id
        ORDER BY due_time, arrival_time IS NOT NULL, departure_time IS NULL, stop_sequence, stop_id
      ),
      TRUE
    )
),

-- Of stop times at the same time, without a stop_sequence that tells them apart, the order is unknown: they count as
-- stops, but nothing is said of them.
numbered_stop AS (
  SELECT
    trip_id,
    stop_id,
    arrival_time,
    departure_time,
    stop_sequence,
    is_sequenced,
    timepoint,
    is_interpolated,
    ROW_NUMBER() OVER (PARTITION BY trip_id ORDER BY place) AS position,
    COUNT(*) OVER (PARTITION BY trip_id, due_time, arrival_time IS NULL, departure_time IS NULL) > 1
    AND COUNT(*) OVER (PARTITION BY trip_id, due_time, arrival_time IS NULL, departure_time IS NULL)
    > COUNT(DISTINCT stop_sequence) OVER (PARTITION BY trip_id, due_time, arrival_time IS NULL, departure_time IS NULL)
    AS is_order_unknown
  FROM ordered_stop
),

-- A trip does not arrive at its origin: some timetables give an arrival there, others do not.
stop_visit AS (
  SELECT
    trip_id,
    stop_id,
    IF(is_sequenced, stop_sequence, position) AS stop_sequence,
    is_sequenced,
    IF(position = 1, NULL, arrival_time) AS arrival_time,
    IF(position = 1, COALESCE(departure_time, arrival_time), departure_time) AS departure_time,
    timepoint,
    is_interpolated,
    is_order_unknown,
    position,
    LAG(COALESCE(departure_time, arrival_time)) OVER (PARTITION BY trip_id ORDER BY position) AS previous_departure,
    COUNT(*) OVER (PARTITION BY trip_id) AS n_stops,
    MIN(IF(position = 1, COALESCE(departure_time, arrival_time), NULL)) OVER (PARTITION BY trip_id) AS first_time,
    MAX(
      IF(position = 1, COALESCE(departure_time, arrival_time), COALESCE(arrival_time, departure_time))
    ) OVER (PARTITION BY trip_id) AS last_time
  FROM numbered_stop
),

-- The visits that a report of a trip may be about, by what it names: their stop; another stop of their station, if the
-- trip does not serve that one itself; or, with no stop, their stop_sequence.
named_visit AS (
  SELECT trip_id, position, stop_id AS reported_stop, 0 AS reported_sequence, TRUE AS is_named_itself
  FROM stop_visit
  UNION ALL
  SELECT v.trip_id, v.position, o.id, 0, FALSE
  FROM stop_visit AS v
  INNER JOIN named_stop AS s ON s.id = v.stop_id
  INNER JOIN named_stop AS o ON o.parent_station = s.parent_station
  UNION ALL
  SELECT trip_id, position, '', stop_sequence, TRUE
  FROM stop_visit
  WHERE is_sequenced
),

reportable_visit AS (
  SELECT
    n.trip_id,
    n.reported_stop,
    n.reported_sequence,
    COUNT(*) OVER (PARTITION BY n.trip_id, n.reported_stop, n.reported_sequence) AS n_visits,
    v.stop_id,
    v.stop_sequence,
    v.is_sequenced,
    v.arrival_time,
    v.departure_time,
    v.previous_departure,
    v.timepoint,
    v.is_order_unknown,
    v.position,
    v.n_stops,
    v.first_time,
    v.last_time
  FROM (
    SELECT trip_id, position, reported_stop, reported_sequence
    FROM named_visit
    QUALIFY is_named_itself OR NOT LOGICAL_OR(is_named_itself) OVER (PARTITION BY trip_id, reported_stop)
  ) AS n
  INNER JOIN stop_visit AS v ON v.trip_id = n.trip_id AND v.position = n.position
),

network AS (
  SELECT
    MIN(latitude) - @max_degrees_from_stops AS south,
    MAX(latitude) + @max_degrees_from_stops AS north,
    MIN(longitude) - @max_degrees_from_stops AS west,
    MAX(longitude) + @max_degrees_from_stops AS east
  FROM named_stop
),

report AS (
  SELECT
    v.id AS vehicle_id,
    NULLIF(TRIM(v.trip_id, @blanks), '') AS trip_id,
    COALESCE(TRIM(v.stop_id, @blanks), '') AS reported_stop,
    v.current_stop_sequence,
    v.updated_at AS time_stamp,
    v.current_status,
    v.current_status != 'STOPPED_AT' AS is_moving,
    v.latitude,
    v.longitude,
    v.route_id,
    v.direction_id,
    ABS(v.latitude) <= @max_latitude
    AND ABS(v.longitude) <= @max_longitude
    AND (ABS(v.latitude) >= @null_island_degrees OR ABS(v.longitude) >= @null_island_degrees)
    AND (
      n.south IS NULL
      OR (v.latitude BETWEEN n.south AND n.north AND v.longitude BETWEEN n.west AND n.east)
    ) AS has_position
  FROM vehicle AS v
  CROSS JOIN network AS n
  WHERE v.service_date = @service_date
),

-- A report at a time at which its trip cannot be at the stop is of another run of the trip, has a wrong clock, or is of
-- a vehicle that is assigned to another trip's slot: one hours from the trip's scheduled times, one more than 30 minutes
-- before the departure from the previous stop or the arrival at this one, and an arrival more than 12 hours late.
candidate AS (
  SELECT
    v.vehicle_id,
    v.trip_id,
    v.reported_stop,
    v.current_stop_sequence,
    v.time_stamp,
    v.current_status,
    v.is_moving,
    IF(v.has_position, v.latitude, NULL) AS latitude,
    IF(v.has_position, v.longitude, NULL) AS longitude,
    v.route_id,
    v.direction_id,
    t.stop_id,
    t.stop_sequence,
    t.arrival_time,
    t.departure_time,
    t.previous_departure,
    t.timepoint,
    t.is_order_unknown,
    t.position,
    t.n_stops,
    t.n_visits,
    t.is_sequenced AND COALESCE(t.stop_sequence = v.current_stop_sequence, FALSE) AS has_reported_sequence
  FROM report AS v
  INNER JOIN reportable_visit AS t
    ON t.trip_id = v.trip_id
    AND t.reported_stop = v.reported_stop
    AND t.reported_sequence = IF(v.reported_stop = '', v.current_stop_sequence, 0)
  WHERE
    v.time_stamp >= TIMESTAMP_SUB(t.first_time, INTERVAL @max_hours_from_trip HOUR)
    AND v.time_stamp <= TIMESTAMP_ADD(t.last_time, INTERVAL @max_hours_from_trip HOUR)
    AND COALESCE(
      v.time_stamp >= TIMESTAMP_SUB(
        COALESCE(IF(v.is_moving, NULL, t.arrival_time), t.previous_departure),
        INTERVAL @max_early_seconds SECOND
      ),
      TRUE
    )
    AND COALESCE(
      v.is_moving OR v.time_stamp <= TIMESTAMP_ADD(t.arrival_time, INTERVAL @max_late_seconds SECOND),
      TRUE
    )
),

-- Reports about a stop that the trip serves more than once, each once, with the visit that is meant where one is left
-- or the feed's stop sequence says it.
repeated_stop_report AS (
  SELECT
    trip_id,
    vehicle_id,
    time_stamp,
    is_moving,
    reported_stop,
    current_stop_sequence,
    COALESCE(
      MIN(IF(has_reported_sequence, position, NULL)), IF(MIN(position) = MAX(position), MIN(position), NULL)
    ) AS position
  FROM candidate
  WHERE n_visits > 1
  GROUP BY trip_id, vehicle_id, time_stamp, is_moving, reported_stop, current_stop_sequence
),

-- For the others the whole course of the vehicle along the trip decides, as in `placement`.
course AS (
  SELECT DISTINCT trip_id, vehicle_id
  FROM repeated_stop_report
  WHERE position IS NULL
),

-- When the schedule expects the status of each report at each of its candidates, in epoch microseconds.
course_candidate AS (
  SELECT DISTINCT
    c.trip_id,
    c.vehicle_id,
    c.time_stamp,
    c.is_moving,
    c.reported_stop,
    c.current_stop_sequence,
    c.position,
    c.has_reported_sequence,
    IF(
      c.position = 1,
      NULL,
      UNIX_MICROS(IF(c.is_moving, c.previous_departure, COALESCE(c.arrival_time, c.departure_time)))
    ) AS begins,
    UNIX_MICROS(
      IF(c.is_moving, COALESCE(c.arrival_time, c.departure_time), COALESCE(c.departure_time, c.arrival_time))
    ) AS ends
  FROM candidate AS c
  INNER JOIN course AS r ON r.trip_id = c.trip_id AND r.vehicle_id = c.vehicle_id
),

course_report AS (
  SELECT
    trip_id,
    vehicle_id,
    time_stamp,
    is_moving,
    reported_stop,
    current_stop_sequence,
    STRING_AGG(CAST(position AS STRING), ' ' ORDER BY position) AS positions,
    ARRAY_AGG(
      STRUCT(
        position AS position,
        has_reported_sequence AS has_reported_sequence,
        begins AS begins,
        IF(ends < begins, begins, ends) AS ends
      )
      ORDER BY NOT has_reported_sequence, position
    ) AS candidates
  FROM course_candidate
  GROUP BY trip_id, vehicle_id, time_stamp, is_moving, reported_stop, current_stop_sequence
),

-- A report that repeats the one before, not long after it, is about the same visit.
repeating_report AS (
  SELECT
    trip_id,
    vehicle_id,
    time_stamp,
    is_moving,
    reported_stop,
    current_stop_sequence,
    candidates,
    COALESCE(
      reported_stop = LAG(reported_stop) OVER (
        PARTITION BY trip_id, vehicle_id ORDER BY time_stamp, is_moving, reported_stop, current_stop_sequence
      )
      AND is_moving = LAG(is_moving) OVER (
        PARTITION BY trip_id, vehicle_id ORDER BY time_stamp, is_moving, reported_stop, current_stop_sequence
      )
      AND current_stop_sequence IS NOT DISTINCT FROM LAG(current_stop_sequence) OVER (
        PARTITION BY trip_id, vehicle_id ORDER BY time_stamp, is_moving, reported_stop, current_stop_sequence
      )
      AND positions = LAG(positions) OVER (
        PARTITION BY trip_id, vehicle_id ORDER BY time_stamp, is_moving, reported_stop, current_stop_sequence
      )
      AND UNIX_MICROS(time_stamp) - UNIX_MICROS(
        LAG(time_stamp) OVER (
          PARTITION BY trip_id, vehicle_id ORDER BY time_stamp, is_moving, reported_stop, current_stop_sequence
        )
      ) <= @max_gap_microseconds,
      FALSE
    ) AS is_repeat
  FROM course_report
),

stretch_report AS (
  SELECT
    trip_id,
    vehicle_id,
    time_stamp,
    is_moving,
    reported_stop,
    current_stop_sequence,
    candidates,
    SUM(IF(is_repeat, 0, 1)) OVER (
      PARTITION BY trip_id, vehicle_id ORDER BY time_stamp, is_moving, reported_stop, current_stop_sequence
    ) - 1 AS stretch
  FROM repeating_report
),

course_stretch AS (
  SELECT
    trip_id,
    vehicle_id,
    stretch,
    UNIX_MICROS(MIN(time_stamp)) AS first_time,
    UNIX_MICROS(MAX(time_stamp)) AS last_time,
    ANY_VALUE(candidates) AS candidates
  FROM stretch_report
  GROUP BY trip_id, vehicle_id, stretch
),

-- A stretch with one candidate limits the delay to a range, whatever it was before, and so do several of them. A leg is
-- one stretch that has to be placed and those up to the next; it is one iteration. The progress is forgotten after so
-- many stretches that BigQuery's limit of 500 iterations is kept.
leg_stretch AS (
  SELECT
    trip_id,
    vehicle_id,
    stretch,
    first_time,
    last_time,
    candidates,
    candidates[OFFSET(0)].position AS position,
    last_time - candidates[OFFSET(0)].ends AS lowest_delay,
    first_time - candidates[OFFSET(0)].begins AS highest_delay,
    SUM(
      IF(
        MOD(stretch, @max_stretches) > 0
        AND (ARRAY_LENGTH(candidates) = 1 OR candidates[OFFSET(0)].has_reported_sequence),
        0,
        1
      )
    ) OVER (PARTITION BY trip_id, vehicle_id ORDER BY stretch) AS leg
  FROM course_stretch
),

limited_stretch AS (
  SELECT
    trip_id,
    vehicle_id,
    leg,
    stretch,
    first_time,
    last_time,
    candidates,
    position,
    lowest_delay,
    highest_delay,
    MIN(highest_delay) OVER (
      PARTITION BY trip_id, vehicle_id, leg ORDER BY stretch ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
    ) AS highest_later_delay,
    ROW_NUMBER() OVER (PARTITION BY trip_id, vehicle_id, leg ORDER BY stretch) AS nth,
    COUNT(*) OVER (PARTITION BY trip_id, vehicle_id, leg) AS n_stretches
  FROM leg_stretch
),

-- A recursive table, though it has one step, as BigQuery makes all others anew in each iteration that reads them.
course_leg AS (
  SELECT
    trip_id,
    vehicle_id,
    leg,
    stretch,
    first_time,
    last_time,
    candidates,
    MAX(IF(nth > 1 AND nth = n_stretches, position, NULL)) OVER (PARTITION BY trip_id, vehicle_id, leg) AS last_position,
    MAX(
      IF(nth > 1, IF(highest_later_delay < lowest_delay, highest_later_delay, lowest_delay), NULL)
    ) OVER (PARTITION BY trip_id, vehicle_id, leg) AS lowest_delay,
    MIN(IF(nth > 1, highest_delay, NULL)) OVER (PARTITION BY trip_id, vehicle_id, leg) AS highest_delay
  FROM limited_stretch
  QUALIFY nth = 1
  UNION ALL
  SELECT
    trip_id,
    vehicle_id,
    leg,
    stretch,
    first_time,
    last_time,
    candidates,
    last_position,
    lowest_delay,
    highest_delay
  FROM course_leg
  WHERE FALSE
),

-- The visit of the first stretch of each leg, and the position and the delay of the vehicle after the leg. The visit is
-- the candidate with the reported sequence, else the one that changes the vehicle's delay least; at first, one at which
-- it is on time, else late. See `placement`.
progress AS (
  SELECT
    trip_id,
    vehicle_id,
    leg - 1 AS leg,
    stretch - 1 AS stretch,
    CAST(NULL AS INT64) AS visit,
    CAST(-1 AS INT64) AS position,
    CAST(0 AS INT64) AS delay
  FROM course_leg
  WHERE MOD(stretch, @max_stretches) = 0
  UNION ALL
  SELECT
    s.trip_id,
    s.vehicle_id,
    s.leg,
    s.stretch,
    c.position,
    COALESCE(s.last_position, c.position),
    CASE
      WHEN c.delay < s.lowest_delay OR s.highest_delay < s.lowest_delay THEN s.lowest_delay
      WHEN c.delay > s.highest_delay THEN s.highest_delay
      ELSE c.delay
    END
  FROM progress AS p
  INNER JOIN course_leg AS s
    ON s.trip_id = p.trip_id
    AND s.vehicle_id = p.vehicle_id
    AND s.leg = p.leg + 1
    AND (p.visit IS NULL OR MOD(s.stretch, @max_stretches) > 0)
  CROSS JOIN UNNEST([(
    SELECT AS STRUCT
      x.position,
      CASE
        WHEN p.delay < s.last_time - x.ends OR s.first_time - x.begins < s.last_time - x.ends
          THEN s.last_time - x.ends
        WHEN p.delay > s.first_time - x.begins THEN s.first_time - x.begins
        ELSE p.delay
      END AS delay
    FROM (
      SELECT
        y.position,
        y.has_reported_sequence,
        y.begins,
        y.ends,
        y.position < p.position AS is_behind,
        CASE
          WHEN s.stretch = 0 AND s.first_time - y.ends > @latest_start_microseconds
            THEN s.first_time - y.ends - @latest_start_microseconds
          WHEN s.stretch = 0 AND s.first_time - y.ends > @on_time_microseconds THEN 1
          WHEN s.stretch > 0 AND s.first_time - y.ends > p.delay THEN s.first_time - y.ends - p.delay
          WHEN s.first_time - y.begins < p.delay THEN @earliness_weight * (p.delay - s.first_time + y.begins)
          ELSE 0
        END AS change
      FROM UNNEST(s.candidates) AS y
    ) AS x
    ORDER BY
      NOT x.has_reported_sequence,
      x.is_behind AND x.change > @max_return_microseconds,
      x.change + IF(x.is_behind, @return_microseconds, 0),
      x.position
    LIMIT 1
  )]) AS c
),

placed_report AS (
  SELECT
    r.trip_id,
    r.vehicle_id,
    r.time_stamp,
    r.is_moving,
    r.reported_stop,
    r.current_stop_sequence,
    COALESCE(r.position, p.visit) AS position
  FROM repeated_stop_report AS r
  LEFT JOIN stretch_report AS s
    ON s.trip_id = r.trip_id
    AND s.vehicle_id = r.vehicle_id
    AND s.time_stamp = r.time_stamp
    AND s.is_moving = r.is_moving
    AND s.reported_stop = r.reported_stop
    AND s.current_stop_sequence IS NOT DISTINCT FROM r.current_stop_sequence
  LEFT JOIN progress AS p
    ON p.trip_id = s.trip_id AND p.vehicle_id = s.vehicle_id AND p.stretch = s.stretch AND p.visit IS NOT NULL
),

vehicle_update AS (
  SELECT c.*
  FROM candidate AS c
  WHERE c.n_visits = 1 AND NOT c.is_order_unknown
  UNION ALL
  SELECT c.*
  FROM candidate AS c
  INNER JOIN placed_report AS p
    ON p.trip_id = c.trip_id
    AND p.vehicle_id = c.vehicle_id
    AND p.time_stamp = c.time_stamp
    AND p.is_moving = c.is_moving
    AND p.reported_stop = c.reported_stop
    AND p.current_stop_sequence IS NOT DISTINCT FROM c.current_stop_sequence
    AND p.position = c.position
  WHERE c.n_visits > 1 AND NOT c.is_order_unknown
),

-- The position of each vehicle along its trip. Of several statuses of a vehicle at the same time the one furthest
-- along counts, which also removes duplicates.
located AS (
  SELECT
    u.vehicle_id,
    u.trip_id,
    u.stop_id AS current_stop_id,
    u.stop_sequence AS current_stop_sequence,
    u.timepoint,
    u.time_stamp,
    u.current_status,
    u.is_moving,
    u.latitude,
    u.longitude,
    u.route_id,
    u.direction_id,
    u.position,
    IF(u.is_moving, u.position, u.position + 1) AS next_position,
    u.n_stops - IF(u.is_moving, u.position, u.position + 1) + 1 AS n_ahead,
    IF(u.is_moving, u.previous_departure, COALESCE(u.departure_time, u.arrival_time)) AS scheduled_last_departure,
    DIV(
      (UNIX_MICROS(u.time_stamp) - UNIX_MICROS(d.start_time) + UNIX_DATE(@service_date) * 86400000000), (1000000)
    ) AS local_seconds
  FROM vehicle_update AS u
  CROSS JOIN service_day AS d
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY u.vehicle_id, u.trip_id, u.time_stamp
    ORDER BY
      IF(u.is_moving, u.position, u.position + 1) DESC,
      u.current_status,
      u.latitude,
      u.longitude
  ) = 1
),

-- The first STOPPED_AT of a vehicle on a stop visit is its arrival; later ones belong to the same visit. It has
-- departed from the first stop when it is first seen further on, and at a time that is known if it was on its way to
-- the second.
observed_event AS (
  SELECT
    trip_id, vehicle_id, position, 'arrival' AS event, MIN(time_stamp) AS passed_at, MIN(time_stamp) AS observed_at
  FROM vehicle_update
  WHERE NOT is_moving
  GROUP BY trip_id, vehicle_id, position
  UNION ALL
  SELECT
    trip_id,
    vehicle_id,
    1,
    'departure',
    MIN(time_stamp),
    IF(MIN(IF(is_moving AND position = 2, time_stamp, NULL)) = MIN(time_stamp), MIN(time_stamp), NULL)
  FROM located
  WHERE position > 1
  GROUP BY trip_id, vehicle_id
),

-- The numbers of stops ahead that are no benchmarks, in order, by how many stops there are ahead.
other_distance AS (
  SELECT
    n_ahead,
    ARRAY(
      SELECT stops
      FROM UNNEST(GENERATE_ARRAY(1, n_ahead)) AS stops
      WHERE stops NOT IN UNNEST(@benchmark_distances)
      ORDER BY stops
    ) AS others
  FROM UNNEST(GENERATE_ARRAY(0, (SELECT MAX(n_stops) FROM stop_visit))) AS n_ahead
),

-- Which stops ahead there are rows about; see `distances`. The first update of a vehicle on a trip in each interval has
-- rows about every stop ahead.
interval_start AS (
  SELECT vehicle_id, trip_id, MIN(time_stamp) AS time_stamp
  FROM located
  GROUP BY vehicle_id, trip_id, DIV((local_seconds), (@full_interval_seconds))
),

hashed AS (
  SELECT
    u.*,
    i.time_stamp IS NOT NULL OR @every_stop_ahead AS has_every_stop,
    MOD(u.local_seconds * @multiplier, @modulus) AS first_hash,
    MOD(MOD(u.local_seconds * @multiplier, @modulus) * @multiplier, @modulus) AS second_hash
  FROM located AS u
  LEFT JOIN interval_start AS i
    ON i.vehicle_id = u.vehicle_id AND i.trip_id = u.trip_id AND i.time_stamp = u.time_stamp
),

sampled AS (
  SELECT
    u.*,
    IF(u.has_every_stop, u.n_ahead, -1) AS n_every_stop,
    o.others[SAFE_ORDINAL(MOD(u.first_hash, NULLIF(ARRAY_LENGTH(o.others), 0)) + 1)] AS first_other,
    o.others[SAFE_ORDINAL(
      MOD(
        MOD(u.first_hash, NULLIF(ARRAY_LENGTH(o.others), 0))
        + 1
        + MOD(u.second_hash, NULLIF(ARRAY_LENGTH(o.others) - 1, 0)),
        NULLIF(ARRAY_LENGTH(o.others), 0)
      ) + 1
    )] AS second_other
  FROM hashed AS u
  INNER JOIN other_distance AS o ON o.n_ahead = u.n_ahead
),

-- A table to join with, since DuckDB is slow to unnest an array of each update. Updates with some of the stops ahead
-- have -1 here; `nth_other` is the first or second of their others. 0 is the departure from the first stop.
distance AS (
  SELECT n_ahead AS n_every_stop, stops AS stops_ahead, 0 AS nth_other
  FROM other_distance
  CROSS JOIN UNNEST(GENERATE_ARRAY(0, n_ahead)) AS stops
  UNION ALL
  SELECT -1, stops, 0
  FROM UNNEST(ARRAY_CONCAT([0], @benchmark_distances)) AS stops
  UNION ALL
  SELECT -1, NULL, nth
  FROM UNNEST([1, 2]) AS nth
),

chosen AS (
  SELECT
    u.*,
    CASE d.nth_other WHEN 1 THEN u.first_other WHEN 2 THEN u.second_other ELSE d.stops_ahead END AS stops_ahead
  FROM sampled AS u
  INNER JOIN distance AS d ON d.n_every_stop = u.n_every_stop
  WHERE u.position = 1 OR d.nth_other > 0 OR d.stops_ahead > 0
),

prediction AS (
  SELECT
    u.*,
    IF(u.stops_ahead = 0, 'departure', 'arrival') AS event,
    IF(u.stops_ahead = 0, 1, u.next_position + u.stops_ahead - 1) AS destination_position
  FROM chosen AS u
),

named_trip AS (
  SELECT NULLIF(TRIM(p.id, @blanks), '') AS id, p.name, p.route_id, p.direction_id
  FROM trip AS p
  WHERE p.service_date = @service_date
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY NULLIF(TRIM(p.id, @blanks), '')
    ORDER BY p.name, p.route_id, p.direction_id
  ) = 1
)

SELECT
  @service_date AS service_date,
  u.time_stamp,
  u.vehicle_id,
  u.current_status,
  u.current_stop_id,
  u.current_stop_sequence,
  u.timepoint,
  u.next_position - 1 AS stops_behind,
  u.scheduled_last_departure,
  u.latitude AS current_latitude,
  u.longitude AS current_longitude,
  u.event,
  CAST(u.stops_ahead AS INT64) AS stops_ahead,
  t.stop_id,
  t.stop_sequence,
  d.name AS destination,
  d.platform_name,
  d.latitude AS destination_latitude,
  d.longitude AS destination_longitude,
  u.trip_id,
  n.name AS trip_name,
  COALESCE(u.route_id, n.route_id) AS route_id,
  COALESCE(u.direction_id, n.direction_id) AS direction_id,
  t.departure_time AS scheduled_departure,
  IF(u.event = 'departure', t.departure_time, t.arrival_time) AS scheduled_arrival,
  t.is_interpolated,
  -- A departure hours from the schedule is of another run, as an arrival would be.
  IF(
    u.event = 'arrival'
    OR e.observed_at BETWEEN TIMESTAMP_SUB(t.departure_time, INTERVAL @max_early_seconds SECOND)
    AND TIMESTAMP_ADD(t.departure_time, INTERVAL @max_late_seconds SECOND),
    e.observed_at,
    NULL
  ) AS actual_arrival_time
FROM prediction AS u
INNER JOIN stop_visit AS t ON t.trip_id = u.trip_id AND t.position = u.destination_position
LEFT JOIN observed_event AS e
  ON e.trip_id = u.trip_id
  AND e.vehicle_id = u.vehicle_id
  AND e.position = u.destination_position
  AND e.event = u.event
LEFT JOIN named_stop AS d ON d.id = t.stop_id
LEFT JOIN named_trip AS n ON n.id = u.trip_id
WHERE
  -- A vehicle waits at the origin for its layover, and what is in the past is not predicted.
  (u.event = 'departure' OR (t.position > 1 AND t.arrival_time IS NOT NULL))
  AND NOT t.is_order_unknown
  AND (e.passed_at IS NULL OR u.time_stamp < e.passed_at)
